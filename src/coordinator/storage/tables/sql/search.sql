-- Searches for jobs. A page goes on from a key, and looks at a bounded number of jobs: `…_reach` tells the key at
-- which it stops. An option is an index: a client, a state, an error's code, attempts beyond the first. What no
-- index has is compared row by row.

-- name: search_jobs[_of_client][_in_state][_with_code][_tried_again][_oldest][_states]
-- A page of jobs between two keys, newest first; oldest first with [_oldest]. With [_states] their states alone.
SELECT job_id, client, service, state, priority, attempt, max_attempts, miner_id, requested_at, -- [no _states]
  started_at, finished_at, expires_at, error_code, error_message, position -- [no _states]
SELECT state -- [_states]
FROM jobs
WHERE (requested_at, job_id) >= (:from_at, :from_id)
  AND (requested_at, job_id) < (:to_at, :to_id)
  AND client = :client -- [_of_client]
  AND state = :state -- [_in_state]
  AND error_code = :code -- [_with_code]
  AND attempt > 1 -- [_tried_again]
  AND (:any_client = 1 OR client IN (:clients))
  AND (:any_state = 1 OR state IN (:states))
  AND (:any_code = 1 OR error_code IN (:codes))
  AND (:any_service = 1 OR service IN (:services))
  AND (:any_miner = 1 OR miner_id IN (:miners))
  AND (:any_needs = 1 OR (service || ' ' || constraints_json) IN (:needs))
  AND attempt BETWEEN :least_attempt AND :most_attempt
  AND (CAST(:word_1 AS text) = '' OR lower(client || ' ' || service || ' ' || COALESCE(miner_id, '') || ' '
    || COALESCE(error_code, '') || ' ' || COALESCE(error_message, '')) LIKE :word_1 ESCAPE '!')
  AND (CAST(:word_2 AS text) = '' OR lower(client || ' ' || service || ' ' || COALESCE(miner_id, '') || ' '
    || COALESCE(error_code, '') || ' ' || COALESCE(error_message, '')) LIKE :word_2 ESCAPE '!')
  AND (CAST(:word_3 AS text) = '' OR lower(client || ' ' || service || ' ' || COALESCE(miner_id, '') || ' '
    || COALESCE(error_code, '') || ' ' || COALESCE(error_message, '')) LIKE :word_3 ESCAPE '!')
ORDER BY requested_at DESC, job_id DESC -- [no _oldest]
ORDER BY requested_at ASC, job_id ASC -- [_oldest]
LIMIT :page_size

-- name: search_jobs[_of_client][_in_state][_with_code][_tried_again][_oldest]_reach
-- The key after the greatest number of rows that one page may look at: reads an index alone.
SELECT requested_at, job_id FROM jobs
WHERE (requested_at, job_id) >= (:from_at, :from_id)
  AND (requested_at, job_id) < (:to_at, :to_id)
  AND client = :client -- [_of_client]
  AND state = :state -- [_in_state]
  AND error_code = :code -- [_with_code]
  AND attempt > 1 -- [_tried_again]
ORDER BY requested_at DESC, job_id DESC -- [no _oldest]
ORDER BY requested_at ASC, job_id ASC -- [_oldest]
LIMIT 1 OFFSET :skip

-- name: search_ids
-- The ids that begin like this: those between two texts.
SELECT job_id FROM jobs WHERE job_id >= :low AND job_id < :high ORDER BY job_id LIMIT :most

-- name: search_jobs_by_id
-- Jobs by their ids, newest first.
SELECT job_id, client, service, state, priority, attempt, max_attempts, miner_id, requested_at, started_at,
  finished_at, expires_at, error_code, error_message, position, constraints_json
FROM jobs WHERE job_id IN (:job_ids) ORDER BY requested_at DESC, job_id DESC

-- name: search_classes
-- The needs of these classes, which have open jobs.
SELECT job_class, service, constraints_json FROM work_classes WHERE job_class IN (:classes)

-- name: search_state_count[_of_client]
-- The number of jobs in a state, `most` at most: reads an index alone.
SELECT COUNT(*) AS jobs FROM (
  SELECT 1 AS one FROM jobs
  WHERE state = :state
    AND client = :client -- [_of_client]
  LIMIT :most
) AS found
