-- Reads of the HTTP edge. A page continues after the last row of the previous page; an empty text as a filter
-- matches everything.

-- name: read_job
-- One job.
SELECT jobs.*,
  (SELECT position FROM erased_content WHERE key = jobs.job_id || '/payload') AS payload_erased,
  (SELECT position FROM erased_content WHERE key = jobs.job_id || '/result') AS result_erased
FROM jobs WHERE job_id = :job_id

-- name: read_jobs[_of_client][_in_state][_oldest]
-- A page of jobs between two keys, newest first; oldest first with [_oldest].
SELECT jobs.*,
  (SELECT position FROM erased_content WHERE key = jobs.job_id || '/payload') AS payload_erased,
  (SELECT position FROM erased_content WHERE key = jobs.job_id || '/result') AS result_erased
FROM jobs
WHERE (requested_at, job_id) >= (:from_at, :from_id)
  AND (requested_at, job_id) < (:to_at, :to_id)
  AND client = :client -- [_of_client]
  AND state = :state -- [_in_state]
  AND (:service = '' OR service = :service)
  AND (:miner = '' OR miner_id = :miner)
ORDER BY requested_at ASC, job_id ASC -- [_oldest]
ORDER BY requested_at DESC, job_id DESC -- [no _oldest]
LIMIT :page_size

-- name: read_jobs[_of_client][_in_state][_oldest]_reach
-- The key after the greatest number of rows that one page may scan: reads an index alone.
SELECT requested_at, job_id FROM jobs
WHERE (requested_at, job_id) >= (:from_at, :from_id)
  AND (requested_at, job_id) < (:to_at, :to_id)
  AND client = :client -- [_of_client]
  AND state = :state -- [_in_state]
ORDER BY requested_at ASC, job_id ASC -- [_oldest]
ORDER BY requested_at DESC, job_id DESC -- [no _oldest]
LIMIT 1 OFFSET :skip

-- name: read_erasable[_of_client]
-- The next jobs that were final at a moment, in the order of their submits, and what of them is erased.
SELECT job_id, requested_at, result_digest,
  (SELECT position FROM erased_content WHERE key = jobs.job_id || '/payload') AS payload_erased,
  (SELECT position FROM erased_content WHERE key = jobs.job_id || '/result') AS result_erased
FROM jobs
WHERE (requested_at, job_id) > (:after_at, :after_id)
  AND requested_at <= :until
  AND finished_at <= :until
  AND client = :client -- [_of_client]
ORDER BY requested_at, job_id
LIMIT :page_size

-- name: read_final_jobs
-- The final ones of these jobs.
SELECT job_id FROM jobs
WHERE job_id IN (:job_ids)
  AND state IN ('COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED')

-- name: read_job_lines
-- What a list shows of these jobs.
SELECT job_id, client, service, state, priority, attempt, max_attempts, miner_id, requested_at, started_at,
  finished_at, expires_at, error_code, error_message, position
FROM jobs
WHERE job_id IN (:job_ids)

-- name: read_miner
-- One miner.
SELECT * FROM miners WHERE miner_id = :miner_id

-- name: read_gpu_memory
-- What a miner's live session said last of the free memory of its GPUs.
SELECT gpu_memory_json FROM live_sessions WHERE miner_id = :miner_id AND gpu_memory_json IS NOT NULL

-- name: read_miners
-- A page of all miners, by id.
SELECT * FROM miners
WHERE miner_id > :after
  AND (:state = '' OR state = :state)
ORDER BY miner_id
LIMIT :page_size

-- name: read_standings
-- The standings of these principals.
SELECT principal, service, completed, failed, lost, too_slow, released, unclaimed, slots, streak, quarantine, reason
FROM standings WHERE principal IN (:principals) ORDER BY principal, service

-- name: read_offerings
-- The profiles of the online miners, each with its capabilities and earliest registration.
SELECT profile, MIN(capabilities_json) AS capabilities_json, MIN(registered_at) AS since
FROM miners
WHERE state = 'ONLINE'
GROUP BY profile
ORDER BY profile

-- name: read_retired_services
-- The ids of the retired entries of the registry.
SELECT service FROM services WHERE retired = 1

-- name: read_service
-- One entry of the registry, retired or not.
SELECT * FROM services WHERE service = :service

-- name: read_services
-- A page of the registry, by id.
SELECT * FROM services
WHERE service > :after
  AND retired <= :retired
  AND (:category = '' OR category = :category)
ORDER BY service
LIMIT :page_size

-- name: read_categories
-- The number of registry entries that take jobs, by category.
SELECT category, COUNT(*) AS services FROM services WHERE retired = 0 GROUP BY category

-- name: read_miner_counts
-- The number of miners, by state.
SELECT state, COUNT(*) AS miners FROM miners GROUP BY state

-- name: read_blob_owners
-- The keys (digest, a slash, principal) among these that name an upload, with the blob's size.
SELECT key, size FROM blob_owners WHERE key IN (:keys)

-- name: read_backlog
-- The number of queued jobs, and the submit time of the oldest.
SELECT COUNT(*) AS queued, MIN(requested_at) AS oldest_at FROM jobs WHERE state = 'QUEUED'

-- name: read_lease
-- The lease of a running job.
SELECT attempt, miner_id, lease_until FROM leases WHERE job_id = :job_id

-- name: read_last_seen
-- The last heartbeats of the live sessions of these miners.
SELECT miner_id, last_seen FROM live_sessions WHERE miner_id IN (:miner_ids)

-- name: read_running_of
-- The number of attempts that each of these miners holds.
SELECT miner_id, COUNT(*) AS running FROM open_work WHERE miner_id IN (:miner_ids) GROUP BY miner_id

-- name: read_held_by
-- The jobs that a miner holds.
SELECT job_id FROM open_work WHERE miner_id = :miner_id ORDER BY job_id LIMIT :most

-- name: read_quarantines
-- The principals in quarantine, and those in doubt, worst first.
SELECT principal, service, quarantine, streak, reason FROM standings
WHERE quarantine <> '' OR streak >= :streak
ORDER BY quarantine DESC, streak DESC, principal, service LIMIT :most

-- name: read_queued_classes
-- The classes of queued jobs: their number, and the submit of the oldest by its place in the log.
SELECT c.job_class, c.service, c.constraints_json, COUNT(*) AS queued, MIN(w.position) AS oldest
FROM open_work w
JOIN work_classes c ON c.job_class = w.job_class
WHERE w.miner_id IS NULL
GROUP BY c.job_class, c.service, c.constraints_json
ORDER BY queued DESC, c.job_class
LIMIT :most

-- name: read_queued_by_service
-- The number of queued jobs, by service.
SELECT service, COUNT(*) AS queued FROM open_work WHERE miner_id IS NULL GROUP BY service

-- name: read_class_oldest
-- One of the oldest queued jobs of a class.
SELECT j.job_id, j.requested_at FROM open_work w JOIN jobs j ON j.job_id = w.job_id
WHERE w.miner_id IS NULL AND w.job_class = :job_class AND w.position = :position
