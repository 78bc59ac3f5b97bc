-- name: match_profiles
-- The live miners by profile and state: one of their ids, their capabilities, their number and their slots.
SELECT profile, state, MIN(miner_id) AS miner_id, MIN(capabilities_json) AS capabilities_json,
       COUNT(*) AS miners, CAST(SUM(concurrency) AS bigint) AS slots
FROM miners
WHERE state <> 'OFFLINE'
GROUP BY profile, state
ORDER BY profile, state;

-- name: match_running
-- The attempts that live miners hold, by profile, state and service.
SELECT m.profile, m.state, w.service, COUNT(*) AS attempts
FROM open_work w
JOIN miners m ON m.miner_id = w.miner_id AND m.session_id = w.session_id
WHERE w.miner_id IS NOT NULL AND m.state <> 'OFFLINE'
GROUP BY m.profile, m.state, w.service;

-- name: match_running_of
-- The attempts that one miner's session holds.
SELECT COUNT(*) AS attempts FROM open_work WHERE miner_id = :miner_id AND session_id = :session_id;

-- name: match_standings
-- The standings of these principals.
SELECT principal, service, slots, quarantine FROM standings WHERE principal IN (:principals);

-- name: match_queued_classes
-- The classes of queued jobs with the number of these jobs, the most frequent first.
SELECT c.service, c.constraints_json, COUNT(*) AS queued
FROM open_work w
JOIN work_classes c ON c.job_class = w.job_class
WHERE w.miner_id IS NULL
GROUP BY c.job_class, c.service, c.constraints_json
ORDER BY queued DESC, c.job_class
LIMIT :most;

-- name: match_own_before
-- How many queued jobs of a client and class go before this one; counts `most` at most.
SELECT COUNT(*) AS jobs FROM (
    SELECT job_id FROM open_work
    WHERE miner_id IS NULL AND job_class = :job_class AND client = :client
      AND (priority > :priority OR (priority = :priority AND position < :position))
    LIMIT :most
) AS before;
