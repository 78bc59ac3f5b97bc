-- API keys, for the keyring's start and for admins.

-- name: keys_not_revoked
-- The keys that may still be valid.
SELECT key_id FROM api_keys WHERE revoked_at IS NULL

-- name: read_key
-- One key.
SELECT * FROM api_keys WHERE key_id = :key_id

-- name: read_keys
-- A page of all keys, by name.
SELECT * FROM api_keys
WHERE (name, key_id) > (:after_name, :after_id)
  AND (:name = '' OR name = :name)
  AND (:role = '' OR role = :role)
  AND (:revoked = 1 OR revoked_at IS NULL)
ORDER BY name, key_id
LIMIT :page_size
