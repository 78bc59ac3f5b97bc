-- name: bus_owned_blobs
-- Which of these (digest/principal) pairs are uploads that took place.
SELECT key FROM blob_owners WHERE key IN (:keys);
