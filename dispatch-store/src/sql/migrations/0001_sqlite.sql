-- Every live message, from enqueue to done, leased or not. Written once and read at each claim; only a retry changes
-- it. Order under a key is the order of ids. Times are microseconds since 1970.
CREATE TABLE dispatch_item (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    message_id TEXT NOT NULL,
    payload BLOB NOT NULL,
    headers TEXT,
    metadata TEXT,
    key TEXT,
    priority INTEGER NOT NULL,
    run_at INTEGER NOT NULL,
    dedupe TEXT,
    created_at INTEGER NOT NULL,
    deadline INTEGER,
    attempts INTEGER NOT NULL,
    history TEXT
);
CREATE INDEX dispatch_item_key ON dispatch_item (queue, key, id) WHERE key IS NOT NULL;

-- The unleased ones, in the order of claims: narrow, inserted and deleted, never updated.
CREATE TABLE dispatch_ready (
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    run_at INTEGER NOT NULL,
    id INTEGER NOT NULL,
    key TEXT,
    dedupe TEXT,
    PRIMARY KEY (queue, priority DESC, run_at, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX dispatch_ready_dedupe ON dispatch_ready (queue, dedupe) WHERE dedupe IS NOT NULL;

-- One row a claimed batch, not one an item; `ids` is a JSON array. A fence is drawn by chance and never used twice.
CREATE TABLE dispatch_lease (
    number INTEGER PRIMARY KEY,
    fence INTEGER NOT NULL,
    queue TEXT NOT NULL,
    until INTEGER NOT NULL,
    ids TEXT NOT NULL
);
CREATE INDEX dispatch_lease_fence ON dispatch_lease (fence);
CREATE INDEX dispatch_lease_end ON dispatch_lease (queue, until);

CREATE TABLE dispatch_dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    pipeline TEXT NOT NULL,
    source TEXT NOT NULL,
    message_id TEXT NOT NULL,
    payload BLOB NOT NULL,
    headers TEXT NOT NULL,
    metadata TEXT NOT NULL,
    key TEXT,
    reason TEXT NOT NULL,
    attempts TEXT NOT NULL,
    class TEXT,
    code TEXT,
    trace_id TEXT,
    config_hash TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    replayed_at INTEGER
);
CREATE UNIQUE INDEX dispatch_dead_message ON dispatch_dead (pipeline, source, message_id, created_at) WHERE replayed_at IS NULL;

-- A reservation without an owner is done.
CREATE TABLE dispatch_reservation (key TEXT PRIMARY KEY, owner TEXT, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX dispatch_reservation_end ON dispatch_reservation (until);
CREATE TABLE dispatch_slot (schedule TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (schedule, at)) WITHOUT ROWID;
CREATE TABLE dispatch_position (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
