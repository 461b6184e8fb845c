-- Who claims: a row for each open store, written over at each beat of its heart and within its page. `period`: who has
-- not beaten for so long is dead. Times in microseconds, those at the end since 1970.
CREATE TABLE dispatch_node (
    id bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    process text COLLATE "C" NOT NULL,
    host text NOT NULL,
    period bigint NOT NULL,
    started_at bigint NOT NULL,
    last_seen bigint NOT NULL
) WITH (fillfactor = 50);
-- Who holds it. No index: it is looked for only when somebody has died.
ALTER TABLE dispatch_lease ADD COLUMN node bigint;
