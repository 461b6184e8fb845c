-- Who claims: a row for each open store, written over at each beat of its heart. `period`: who has not beaten for so
-- long is dead. Times in microseconds, those at the end since 1970.
CREATE TABLE dispatch_node (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    process TEXT NOT NULL,
    host TEXT NOT NULL,
    period INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    last_seen INTEGER NOT NULL
);
-- Who holds it. No index: it is looked for only when somebody has died.
ALTER TABLE dispatch_lease ADD COLUMN node INTEGER;
