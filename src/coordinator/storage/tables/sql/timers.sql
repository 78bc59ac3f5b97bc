-- name: timers_expired
-- Jobs whose time to live is over.
SELECT job_id, traceparent FROM open_work WHERE expires_at <= :now ORDER BY expires_at LIMIT :count;

-- name: timers_overrun
-- Attempts that run longer than their service allows.
SELECT leases.job_id, leases.attempt, leases.traceparent
FROM leases JOIN open_work ON open_work.job_id = leases.job_id
WHERE leases.started_at + open_work.timeout_seconds * 1000 <= :now
LIMIT :count;

-- name: timers_unextended
-- Attempts whose lease is over: no heartbeat extended it.
SELECT job_id, attempt, traceparent FROM leases WHERE lease_until <= :now ORDER BY lease_until LIMIT :count;

-- name: timers_orphans
-- Attempts of sessions that are over (lost, left, or replaced by a newer one).
SELECT leases.job_id, leases.attempt, leases.traceparent
FROM leases LEFT JOIN live_sessions
  ON live_sessions.miner_id = leases.miner_id AND live_sessions.session_id = leases.session_id
WHERE live_sessions.miner_id IS NULL
LIMIT :count;

-- name: timers_silent
-- Sessions last seen before a time.
SELECT miner_id, session_id FROM live_sessions WHERE last_seen < :before ORDER BY last_seen LIMIT :count;

-- name: timers_shift
-- The clock was set: an attempt's time to run is counted from its start on the clock of now.
UPDATE leases SET started_at = started_at + :jump;

-- name: timers_leases_not_after
-- Leases from a clock that was ahead would count for longer than one timeout.
UPDATE leases SET lease_until = :latest WHERE lease_until > :latest;

-- name: timers_seen_not_after
-- So would signs of life.
UPDATE live_sessions SET last_seen = :latest WHERE last_seen > :latest;

-- name: presence_seen
-- A session's sign of life, and the free memory of its GPUs if it says so; changes no row if the session is not the
-- live one.
UPDATE live_sessions SET last_seen = :now, gpu_memory_json = COALESCE(:gpu_memory_json, gpu_memory_json)
WHERE miner_id = :miner_id AND session_id = :session_id;

-- name: presence_parked
-- Signs of life of sessions whose polls wait. Miners choose their session ids, so each counts for its own miner alone;
-- a space is in neither id.
UPDATE live_sessions SET last_seen = :now
WHERE miner_id IN (:miner_ids) AND miner_id || ' ' || session_id IN (:sessions);

-- name: presence_extend
-- A session's heartbeat extends its leases.
UPDATE leases SET lease_until = :lease_until
WHERE miner_id = :miner_id AND session_id = :session_id AND job_id IN (:job_ids);

-- name: presence_leases
-- The attempts that a session holds.
SELECT job_id, attempt FROM leases WHERE miner_id = :miner_id AND session_id = :session_id;
