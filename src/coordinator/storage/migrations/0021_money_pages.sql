-- The pages about money find open disputes, and every process knows of the log-outs of all.

CREATE INDEX entries_disputed ON entries (posted_position) WHERE disputed = 1;

CREATE TABLE ended_sessions (
    session_id text PRIMARY KEY,
    expires_at bigint NOT NULL
);
