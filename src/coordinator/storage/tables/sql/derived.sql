-- All rows of the followers' own tables, for the comparison with the log and for a rebuild.

-- name: derived_hold
-- Keep these followers from writing until the end of the transaction: all reads in it are of one moment.
UPDATE positions SET position = position WHERE follower IN (:followers)

-- name: derived_open_work
-- Every open job.
SELECT job_id, attempt, job_class, client, priority, position, service, payload_digest, timeout_seconds,
       expires_at, traceparent, tried, miner_id, session_id
FROM open_work

-- name: derived_work_classes
-- Every class.
SELECT job_class, service, constraints_json FROM work_classes

-- name: derived_work_sessions
-- Every miner's latest session.
SELECT miner_id, session_id, profile, capabilities_json, concurrency, state FROM work_sessions

-- name: derived_leases
-- Every lease.
SELECT job_id, attempt, miner_id, session_id, traceparent FROM leases

-- name: derived_live_sessions
-- Every session that has not ended.
SELECT miner_id, session_id FROM live_sessions

-- name: derived_erased_content
-- Everything that was erased.
SELECT key, position FROM erased_content

-- name: derived_webhook_targets
-- Every receiver.
SELECT webhook_id, owner, role, events, enabled FROM webhook_targets

-- name: derived_webhook_callbacks
-- Every URL that an open job names.
SELECT job_id, client, sealed_url FROM webhook_callbacks

-- name: derived_settlements
-- Every settlement batch.
SELECT * FROM settlements

-- name: derived_settlement_payouts
-- Every payout of a batch.
SELECT * FROM settlement_payouts

-- name: derived_settlement_payees
-- Every party that has earned money, or has a payout address.
SELECT * FROM settlement_payees

-- name: derived_settlement_receipts
-- The payments that no batch covers yet.
SELECT * FROM settlement_receipts

-- name: derived_tiles
-- Every tile of the Merkle tree.
SELECT level, tile, hashes, positions, first_position FROM merkle_tiles

-- name: derived_usage
-- The stored bytes of each name, and those of its uploads as their rows tell them; one snapshot.
SELECT names.name AS name,
       COALESCE(quota_usage.payload_bytes, 0) AS payload_bytes,
       COALESCE(quota_usage.blob_bytes, 0) AS blob_bytes,
       COALESCE(owned.bytes, 0) AS owned_bytes
FROM (SELECT name FROM quota_usage UNION SELECT principal FROM blob_owners) AS names
LEFT JOIN quota_usage ON quota_usage.name = names.name
LEFT JOIN (
    SELECT principal, SUM(CASE WHEN size < 4096 THEN 4096 ELSE size END) AS bytes
    FROM blob_owners GROUP BY principal
) AS owned ON owned.principal = names.name

-- name: derived_owned_bytes
-- The bytes of each name's uploads.
SELECT principal AS name, SUM(CASE WHEN size < 4096 THEN 4096 ELSE size END) AS owned_bytes
FROM blob_owners GROUP BY principal

-- name: derived_clear_open_work
-- Before a rebuild.
DELETE FROM open_work

-- name: derived_clear_work_classes
-- Before a rebuild.
DELETE FROM work_classes

-- name: derived_clear_work_sessions
-- Before a rebuild.
DELETE FROM work_sessions

-- name: derived_clear_standings
-- Before a rebuild.
DELETE FROM standings

-- name: derived_clear_leases
-- Before a rebuild.
DELETE FROM leases

-- name: derived_clear_live_sessions
-- Before a rebuild.
DELETE FROM live_sessions

-- name: derived_clear_webhook_targets
-- Before a rebuild.
DELETE FROM webhook_targets

-- name: derived_clear_webhook_callbacks
-- Before a rebuild.
DELETE FROM webhook_callbacks

-- name: derived_clear_settlements
-- Before a rebuild.
DELETE FROM settlements

-- name: derived_clear_settlement_payouts
-- Before a rebuild.
DELETE FROM settlement_payouts

-- name: derived_clear_settlement_payees
-- Before a rebuild.
DELETE FROM settlement_payees

-- name: derived_clear_settlement_receipts
-- Before a rebuild.
DELETE FROM settlement_receipts

-- name: derived_clear_erased_content
-- Before a rebuild.
DELETE FROM erased_content

-- name: derived_clear_quota_usage
-- Before a rebuild.
DELETE FROM quota_usage
