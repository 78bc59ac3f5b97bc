-- Tables that are derived from the log, and can be thrown away and rebuilt. One text serves SQLite and
-- Postgres: only text, bigint, double precision and bytea. Moments are Unix milliseconds; *_json columns hold
-- JSON text; ids are text.

-- How far each follower has read. Moves in the transaction of what it wrote.
CREATE TABLE positions (
    follower text PRIMARY KEY,
    position bigint NOT NULL
);

-- Read models (projector) --------------------------------------------------------------------------------

CREATE TABLE jobs (
    job_id text PRIMARY KEY,
    client text NOT NULL,
    service text NOT NULL,
    service_version bigint NOT NULL,
    state text NOT NULL,
    constraints_json text NOT NULL,
    priority bigint NOT NULL,
    attempt bigint NOT NULL,
    max_attempts bigint NOT NULL,
    miner_id text,
    requested_at bigint NOT NULL,
    started_at bigint,
    finished_at bigint,
    expires_at bigint NOT NULL,
    error_code text,
    error_message text,
    payload_digest text NOT NULL,
    result_digest text,
    position bigint NOT NULL
);
CREATE INDEX jobs_by_client ON jobs (client, requested_at, job_id);
CREATE INDEX jobs_by_client_and_state ON jobs (client, state, requested_at, job_id);
CREATE INDEX jobs_by_state ON jobs (state, requested_at, job_id);
CREATE INDEX jobs_by_age ON jobs (requested_at, job_id);

CREATE TABLE receipts (
    job_id text PRIMARY KEY,
    receipt_id text NOT NULL,
    attempt bigint NOT NULL,
    client text NOT NULL,
    miner_id text NOT NULL,
    units text NOT NULL,
    price text NOT NULL,
    completed_at bigint NOT NULL,
    receipt_json text NOT NULL,
    position bigint NOT NULL
);

CREATE TABLE miners (
    miner_id text PRIMARY KEY,
    session_id text NOT NULL,
    state text NOT NULL,
    profile text NOT NULL,
    capabilities_json text NOT NULL,
    concurrency bigint NOT NULL,
    public_key text NOT NULL,
    registered_at bigint NOT NULL,
    changed_at bigint NOT NULL,
    position bigint NOT NULL
);

CREATE TABLE services (
    service text PRIMARY KEY,
    version bigint NOT NULL,
    retired bigint NOT NULL,
    category text NOT NULL,
    spec_json text NOT NULL,
    position bigint NOT NULL
);

-- The dispatcher's own tables ----------------------------------------------------------------------------

-- Every job that is not final: queued where miner_id is null, else running.
CREATE TABLE open_work (
    job_id text PRIMARY KEY,
    attempt bigint NOT NULL,
    job_class text NOT NULL,
    client text NOT NULL,
    priority bigint NOT NULL,
    position bigint NOT NULL,
    service text NOT NULL,
    payload_digest text NOT NULL,
    timeout_seconds bigint NOT NULL,
    expires_at bigint NOT NULL,
    miner_id text,
    session_id text
);
CREATE INDEX queued_work_by_lane ON open_work (job_class, priority, client, position) WHERE miner_id IS NULL;
CREATE INDEX running_work ON open_work (miner_id) WHERE miner_id IS NOT NULL;

CREATE TABLE work_classes (
    job_class text PRIMARY KEY,
    service text NOT NULL,
    constraints_json text NOT NULL
);

CREATE TABLE work_sessions (
    miner_id text PRIMARY KEY,
    session_id text NOT NULL,
    profile text NOT NULL,
    capabilities_json text NOT NULL,
    concurrency bigint NOT NULL,
    state text NOT NULL
);

-- The timers' own tables ---------------------------------------------------------------------------------

CREATE TABLE leases (
    job_id text PRIMARY KEY,
    attempt bigint NOT NULL,
    miner_id text NOT NULL,
    session_id text NOT NULL,
    lease_until bigint NOT NULL,
    run_until bigint NOT NULL
);
CREATE INDEX leases_by_end ON leases (lease_until);
CREATE INDEX leases_by_session ON leases (session_id);

CREATE TABLE live_sessions (
    miner_id text PRIMARY KEY,
    session_id text NOT NULL,
    last_seen bigint NOT NULL
);
CREATE INDEX live_sessions_by_age ON live_sessions (last_seen);

CREATE TABLE deadlines (
    job_id text PRIMARY KEY,
    expires_at bigint NOT NULL,
    timeout_seconds bigint NOT NULL
);
CREATE INDEX deadlines_by_end ON deadlines (expires_at);
