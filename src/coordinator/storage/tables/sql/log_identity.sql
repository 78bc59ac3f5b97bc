-- name: log_identity_make
-- Give the log its id, unless it has one.
INSERT INTO log_identity (singleton, log_id) VALUES (1, :log_id) ON CONFLICT (singleton) DO NOTHING;

-- name: log_identity
-- The log's id.
SELECT log_id FROM log_identity;
