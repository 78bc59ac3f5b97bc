-- name: projector_jobs
-- Rows by key.
SELECT * FROM jobs WHERE job_id IN (:keys);

-- name: projector_all_jobs
-- Every row, for the comparison with the log.
SELECT * FROM jobs;

-- name: projector_clear_jobs
-- Before a rebuild.
DELETE FROM jobs;

-- name: projector_receipts
-- Rows by key.
SELECT * FROM receipts WHERE job_id IN (:keys);

-- name: projector_all_receipts
-- Every row, for the comparison with the log.
SELECT * FROM receipts;

-- name: projector_clear_receipts
-- Before a rebuild.
DELETE FROM receipts;

-- name: projector_miners
-- Rows by key.
SELECT * FROM miners WHERE miner_id IN (:keys);

-- name: projector_all_miners
-- Every row, for the comparison with the log.
SELECT * FROM miners;

-- name: projector_clear_miners
-- Before a rebuild.
DELETE FROM miners;

-- name: projector_services
-- Rows by key.
SELECT * FROM services WHERE service IN (:keys);

-- name: projector_all_services
-- Every row, for the comparison with the log.
SELECT * FROM services;

-- name: projector_clear_services
-- Before a rebuild.
DELETE FROM services;

-- name: projector_api_keys
-- Rows by key.
SELECT * FROM api_keys WHERE key_id IN (:keys);

-- name: projector_all_api_keys
-- Every row, for the comparison with the log.
SELECT * FROM api_keys;

-- name: projector_clear_api_keys
-- Before a rebuild.
DELETE FROM api_keys;
