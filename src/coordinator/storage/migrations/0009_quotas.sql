-- Limits and usage of names, and the jobs that need an uploaded file.

-- The read model of quotas (projector): the limits of names that have their own.
CREATE TABLE quotas (
    name text PRIMARY KEY,
    limits_json text NOT NULL,
    changed_at bigint NOT NULL,
    changed_by text NOT NULL,
    reason text NOT NULL,
    position bigint NOT NULL
);

-- Stored bytes by name: payloads and results from the log (with the position "usage"), files from their uploads.
CREATE TABLE quota_usage (
    name text PRIMARY KEY,
    payload_bytes bigint NOT NULL,
    blob_bytes bigint NOT NULL
);
INSERT INTO quota_usage (name, payload_bytes, blob_bytes)
SELECT principal, 0, SUM(CASE WHEN size < 4096 THEN 4096 ELSE size END) FROM blob_owners GROUP BY principal;

-- Which job's payload or result needs which blob. Not derived from the log, as payloads are not in it.
CREATE TABLE blob_refs (
    key text PRIMARY KEY, -- digest || '/' || job_id || '/' || kind
    digest text NOT NULL,
    job_id text NOT NULL,
    kind text NOT NULL,
    at bigint NOT NULL
);
CREATE INDEX blob_refs_by_digest ON blob_refs (digest);
CREATE INDEX blob_refs_by_job ON blob_refs (job_id);
CREATE INDEX blob_refs_by_age ON blob_refs (at);

-- Blobs whose rows are gone already, and whose content is about to go.
CREATE TABLE blob_removals (
    digest text PRIMARY KEY,
    at bigint NOT NULL
);

-- The last moment at which a command referred to the upload. Files from before this column are kept for ever:
-- nobody knows the jobs that need them.
ALTER TABLE blob_owners ADD COLUMN used_at bigint NOT NULL DEFAULT 9007199254740991;
CREATE INDEX blob_owners_by_use ON blob_owners (used_at);
