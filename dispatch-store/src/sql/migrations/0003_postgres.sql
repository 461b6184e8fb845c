-- A rate that processes share: up to when its time is taken, in microseconds since 1970. A few rows, each written over
-- many times a second, within its page.
CREATE TABLE dispatch_rate (name text COLLATE "C" PRIMARY KEY, taken_until bigint NOT NULL) WITH (fillfactor = 50);
