-- name: dispatch_lanes
-- Every lane (class, priority, client) that has queued work at its first attempt.
SELECT DISTINCT job_class, priority, client FROM open_work WHERE miner_id IS NULL AND tried = '';

-- name: dispatch_lane_work
-- The next queued jobs of one lane after a position, oldest first.
SELECT job_id, attempt, job_class, client, priority, position, service, payload_digest, timeout_seconds,
       expires_at, traceparent, tried
FROM open_work
WHERE miner_id IS NULL AND tried = '' AND job_class = :job_class AND priority = :priority AND client = :client
  AND position > :position
ORDER BY position
LIMIT :count;

-- name: dispatch_open_work
-- Open jobs by id.
SELECT job_id, attempt, job_class, client, priority, position, service, payload_digest, timeout_seconds,
       expires_at, traceparent, tried, miner_id, session_id
FROM open_work
WHERE job_id IN (:job_ids);

-- name: dispatch_running
-- Every job that a miner holds.
SELECT job_id, attempt, job_class, client, priority, position, service, payload_digest, timeout_seconds,
       expires_at, traceparent, tried, miner_id, session_id
FROM open_work
WHERE miner_id IS NOT NULL;

-- name: dispatch_classes
-- The classes of open jobs.
SELECT job_class, service, constraints_json FROM work_classes
WHERE job_class IN (SELECT job_class FROM open_work);

-- name: dispatch_sessions
-- Every miner's latest session.
SELECT miner_id, session_id, profile, capabilities_json, concurrency, state FROM work_sessions;

-- name: dispatch_end_session
-- A miner drains, or its session is over.
UPDATE work_sessions SET state = :state WHERE miner_id = :miner_id;

-- name: dispatch_retries
-- Every queued job that was tried before, oldest first.
SELECT job_id, attempt, job_class, client, priority, position, service, payload_digest, timeout_seconds,
       expires_at, traceparent, tried
FROM open_work
WHERE miner_id IS NULL AND tried <> ''
ORDER BY position;

-- name: dispatch_standings
-- Every standing.
SELECT * FROM standings;
