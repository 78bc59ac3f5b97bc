-- What the HTTP edge reads. Pages go on after the last row of the page before; an empty text as a filter
-- takes everything.

-- name: read_job
-- One job.
SELECT * FROM jobs WHERE job_id = :job_id

-- name: read_jobs[_of_client][_in_state][_oldest]
-- A page of jobs between two keys, newest first unless the oldest are asked for.
SELECT * FROM jobs
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
-- The key as many rows further as may be looked at for one page: reads an index alone.
SELECT requested_at, job_id FROM jobs
WHERE (requested_at, job_id) >= (:from_at, :from_id)
  AND (requested_at, job_id) < (:to_at, :to_id)
  AND client = :client -- [_of_client]
  AND state = :state -- [_in_state]
ORDER BY requested_at ASC, job_id ASC -- [_oldest]
ORDER BY requested_at DESC, job_id DESC -- [no _oldest]
LIMIT 1 OFFSET :skip

-- name: read_final_jobs
-- Which of these jobs are final.
SELECT job_id FROM jobs
WHERE job_id IN (:job_ids)
  AND state IN ('COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED')

-- name: read_receipt
-- Where in the log the receipt of one job is.
SELECT position FROM receipts WHERE job_id = :job_id

-- name: read_miner
-- One miner.
SELECT * FROM miners WHERE miner_id = :miner_id

-- name: read_miners
-- A page of all miners, by id.
SELECT * FROM miners
WHERE miner_id > :after
  AND (:state = '' OR state = :state)
ORDER BY miner_id
LIMIT :page_size

-- name: read_offerings
-- What the miners that are online can do: one row for each profile, and since when.
SELECT profile, MIN(capabilities_json) AS capabilities_json, MIN(registered_at) AS since
FROM miners
WHERE state = 'ONLINE'
GROUP BY profile
ORDER BY profile

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
-- How many entries of the registry take jobs, by category.
SELECT category, COUNT(*) AS services FROM services WHERE retired = 0 GROUP BY category

-- name: read_miner_counts
-- How many miners there are, by state.
SELECT state, COUNT(*) AS miners FROM miners GROUP BY state

-- name: read_blob_owners
-- Which of these keys (digest, a slash, principal) say that the principal uploaded the blob, and its size.
SELECT key, size FROM blob_owners WHERE key IN (:keys)

-- name: read_backlog
-- How many jobs wait for a miner, and when the oldest queued one was asked for.
SELECT COUNT(*) AS queued, MIN(requested_at) AS oldest_at FROM jobs WHERE state = 'QUEUED'
