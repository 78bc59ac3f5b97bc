-- Batches: one command for each of the jobs that match a query. Not derived from the log: the events say what each
-- command did, and this says who asked for all of them and how far that is.

CREATE TABLE job_batches (
    batch_id text PRIMARY KEY,
    kind text NOT NULL,
    query text NOT NULL,
    principal text NOT NULL,
    role text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL,
    why text NOT NULL,
    total bigint NOT NULL,
    more bigint NOT NULL,
    done bigint NOT NULL,
    refused_json text NOT NULL,
    place text,
    position bigint NOT NULL,
    created_at bigint NOT NULL,
    ended_at bigint
);
CREATE UNIQUE INDEX job_batches_under_way ON job_batches (principal) WHERE ended_at IS NULL;
CREATE INDEX job_batches_by_age ON job_batches (created_at, batch_id);
