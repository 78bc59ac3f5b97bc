-- What the HTTP edge reads. Pages go on after the last row of the page before; an empty text as a filter
-- takes everything.

-- name: read_job
-- One job.
SELECT * FROM jobs WHERE job_id = :job_id

-- name: read_jobs
-- A page of everybody's jobs, newest first.
SELECT * FROM jobs
WHERE (requested_at, job_id) < (:requested_at, :job_id)
  AND (:service = '' OR service = :service)
ORDER BY requested_at DESC, job_id DESC
LIMIT :page_size

-- name: read_jobs_in_state
-- A page of everybody's jobs in one state, newest first.
SELECT * FROM jobs
WHERE state = :state
  AND (requested_at, job_id) < (:requested_at, :job_id)
  AND (:service = '' OR service = :service)
ORDER BY requested_at DESC, job_id DESC
LIMIT :page_size

-- name: read_jobs_of_client
-- A page of one client's jobs, newest first.
SELECT * FROM jobs
WHERE client = :client
  AND (requested_at, job_id) < (:requested_at, :job_id)
  AND (:service = '' OR service = :service)
ORDER BY requested_at DESC, job_id DESC
LIMIT :page_size

-- name: read_jobs_of_client_in_state
-- A page of one client's jobs in one state, newest first.
SELECT * FROM jobs
WHERE client = :client
  AND state = :state
  AND (requested_at, job_id) < (:requested_at, :job_id)
  AND (:service = '' OR service = :service)
ORDER BY requested_at DESC, job_id DESC
LIMIT :page_size

-- name: read_final_jobs
-- Which of these jobs are final.
SELECT job_id FROM jobs
WHERE job_id IN (:job_ids)
  AND state IN ('COMPLETED', 'FAILED', 'CANCELED', 'EXPIRED')

-- name: read_receipt
-- The receipt of one job.
SELECT receipt_json FROM receipts WHERE job_id = :job_id

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

-- name: read_blob_owners
-- Which of these keys (digest, a slash, principal) say that the principal uploaded the blob, and its size.
SELECT key, size FROM blob_owners WHERE key IN (:keys)

-- name: read_backlog
-- How many jobs wait for a miner, and when the oldest queued one was asked for.
SELECT (SELECT COUNT(*) FROM open_work WHERE miner_id IS NULL) AS queued,
       (SELECT MIN(requested_at) FROM jobs WHERE state = 'QUEUED') AS oldest_at
