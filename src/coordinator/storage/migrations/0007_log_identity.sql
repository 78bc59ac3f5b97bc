-- The log's own id, made at the first start. One row. Not derived from the log: a backup keeps it.
CREATE TABLE log_identity (
    singleton bigint PRIMARY KEY,
    log_id text NOT NULL
);
