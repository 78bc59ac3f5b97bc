-- name: bus_owned_blobs
-- The pairs (digest/principal) among these that name an upload.
SELECT key FROM blob_owners WHERE key IN (:keys);
