-- name: projector_all_jobs
-- Every row, for the comparison with the log.
SELECT * FROM jobs;

-- name: projector_all_miners
-- Every row, for the comparison with the log.
SELECT * FROM miners;

-- name: projector_all_services
-- Every row, for the comparison with the log.
SELECT * FROM services;

-- name: projector_all_api_keys
-- Every row, for the comparison with the log.
SELECT * FROM api_keys;

-- name: projector_all_quotas
-- Every row, for the comparison with the log.
SELECT * FROM quotas;

-- name: projector_all_webhooks
-- Every row, for the comparison with the log.
SELECT * FROM webhooks;

-- name: projector_some_jobs
-- These rows, for the comparison with the log.
SELECT * FROM jobs WHERE job_id IN (:keys);

-- name: projector_some_miners
-- These rows, for the comparison with the log.
SELECT * FROM miners WHERE miner_id IN (:keys);

-- name: projector_some_services
-- These rows, for the comparison with the log.
SELECT * FROM services WHERE service IN (:keys);

-- name: projector_some_api_keys
-- These rows, for the comparison with the log.
SELECT * FROM api_keys WHERE key_id IN (:keys);

-- name: projector_some_quotas
-- These rows, for the comparison with the log.
SELECT * FROM quotas WHERE name IN (:keys);

-- name: projector_some_webhooks
-- These rows, for the comparison with the log.
SELECT * FROM webhooks WHERE webhook_id IN (:keys);

-- name: projector_all_accounts
-- Every row, for the comparison with the log.
SELECT * FROM accounts;

-- name: projector_some_accounts
-- These rows, for the comparison with the log.
SELECT * FROM accounts WHERE party IN (:keys);

-- name: projector_all_entries
-- Every row, for the comparison with the log.
SELECT * FROM entries;

-- name: projector_some_entries
-- These rows, for the comparison with the log.
SELECT * FROM entries WHERE entry_id IN (:keys);

-- name: projector_all_payments
-- Every row, for the comparison with the log.
SELECT * FROM payments;

-- name: projector_clear_payments
-- Before a rebuild.
DELETE FROM payments;

-- name: projector_some_payments
-- These rows, for the comparison with the log.
SELECT * FROM payments WHERE job_id IN (:keys);

-- name: projector_all_contested_payments
-- Every row, for the comparison with the log.
SELECT * FROM contested_payments;

-- name: projector_clear_contested_payments
-- Before a rebuild.
DELETE FROM contested_payments;

-- name: projector_some_contested_payments
-- These rows, for the comparison with the log.
SELECT * FROM contested_payments WHERE job_id IN (:keys);
