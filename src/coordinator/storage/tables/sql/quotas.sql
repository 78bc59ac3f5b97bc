-- Quotas and expiry.

-- name: quotas_limits
-- The limits of names that have their own.
SELECT name, limits_json FROM quotas

-- name: quotas_open
-- Open jobs by client, running jobs and live miners, with the position of these tables; one snapshot.
SELECT 'position' AS kind, '' AS name, '' AS subject, position AS number, '' AS detail
FROM positions WHERE follower = 'dispatcher'
UNION ALL
SELECT 'open', client, '', COUNT(*), '' FROM open_work GROUP BY client
UNION ALL
SELECT 'running', client, job_id, 1, '' FROM open_work WHERE miner_id IS NOT NULL
UNION ALL
SELECT 'miner', '', miner_id, 1, profile FROM work_sessions WHERE state <> 'OFFLINE'

-- name: quotas_stored
-- The stored bytes by name, with the position of the payloads' bytes; one snapshot.
SELECT 'position' AS kind, '' AS name, position AS payload_bytes, 0 AS blob_bytes
FROM positions WHERE follower = 'usage'
UNION ALL
SELECT 'name', name, payload_bytes, blob_bytes FROM quota_usage

-- name: quotas_add_bytes
-- Add to the stored bytes of a name.
INSERT INTO quota_usage (name, payload_bytes, blob_bytes) VALUES (:name, :payload_bytes, :blob_bytes)
ON CONFLICT (name) DO UPDATE SET
    payload_bytes = quota_usage.payload_bytes + excluded.payload_bytes,
    blob_bytes = quota_usage.blob_bytes + excluded.blob_bytes

-- name: quotas_take_bytes
-- Count an upload, unless the name then stores more than it may.
UPDATE quota_usage SET blob_bytes = blob_bytes + :charge
WHERE name = :name AND payload_bytes + blob_bytes + :charge <= :most

-- name: quotas_used_blobs
-- These uploads are needed now: a moment ago nobody needed them, perhaps.
UPDATE blob_owners SET used_at = :now WHERE key IN (:keys) AND used_at < :now

-- name: expiry_new_refs
-- References whose job was not looked for yet, the oldest first.
SELECT key, digest, job_id FROM blob_refs WHERE at < :before ORDER BY at LIMIT :count

-- name: expiry_refs_of_jobs
-- The references of these jobs' payloads or results.
SELECT key, digest, job_id FROM blob_refs WHERE job_id IN (:job_ids) AND kind = :kind

-- name: expiry_old_blobs
-- Uploads that no command has referred to since a moment, in the order of their last use.
SELECT key, used_at, principal FROM blob_owners
WHERE used_at < :before AND (used_at, key) > (:after_at, :after_key)
ORDER BY used_at, key LIMIT :count

-- name: expiry_unused_blobs
-- Remove those of these uploads that no job needs.
DELETE FROM blob_owners
WHERE key IN (:keys) AND used_at < :before
  AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.digest = blob_owners.digest)
RETURNING digest, principal, size

-- name: expiry_removals
-- Blobs whose content is about to go.
SELECT digest FROM blob_removals WHERE at <= :before ORDER BY at LIMIT :count

-- name: expiry_needed
-- Those of these blobs that an upload or a job names.
SELECT digest FROM blob_owners WHERE digest IN (:owned)
UNION
SELECT digest FROM blob_refs WHERE digest IN (:needed)

-- name: expiry_gone_miners
-- Remove miners that have been offline since a moment.
DELETE FROM miners
WHERE state = 'OFFLINE' AND changed_at < :before
  AND miner_id IN (
    SELECT miner_id FROM miners WHERE state = 'OFFLINE' AND changed_at < :before ORDER BY miner_id LIMIT :count
  )

-- name: expiry_gone_sessions
-- Remove the last sessions of these miners.
DELETE FROM work_sessions
WHERE state = 'OFFLINE'
  AND NOT EXISTS (SELECT 1 FROM miners WHERE miners.miner_id = work_sessions.miner_id)

-- name: erased_content_of
-- Those of these payloads and results that are erased, with the position of the event that says so.
SELECT key, position FROM erased_content WHERE key IN (:keys)

-- name: erased_uploads
-- Uploads that go with erased content, the oldest first.
SELECT key FROM erased_uploads WHERE at <= :before ORDER BY at, key LIMIT :count

-- name: erased_uploads_left
-- Those of these uploads that are still there and that no job needs: they were used a short while ago.
SELECT key FROM blob_owners
WHERE key IN (:keys) AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.digest = blob_owners.digest)

-- name: restored_erasures
-- Erasures that a restored log does not have yet.
SELECT key, by_name, reason FROM restored_erasures ORDER BY key LIMIT :count
