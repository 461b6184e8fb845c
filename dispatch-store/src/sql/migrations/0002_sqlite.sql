-- A rate that processes share: up to when its time is taken, in microseconds since 1970.
CREATE TABLE dispatch_rate (name TEXT PRIMARY KEY, taken_until INTEGER NOT NULL) WITHOUT ROWID;
