-- Batches of commands about the jobs that match a query.

-- name: batches_begin
-- Begin a batch, unless one of the same principal is under way.
INSERT INTO job_batches (batch_id, kind, query, principal, role, reason, state, why, total, more, done,
  refused_json, place, position, created_at, ended_at)
VALUES (:batch_id, :kind, :query, :principal, :role, :reason, 'RUNNING', '', :total, :more, 0, '{}', NULL, 0,
  :created_at, NULL)
ON CONFLICT DO NOTHING

-- name: batches_one
-- One batch.
SELECT * FROM job_batches WHERE batch_id = :batch_id

-- name: batches_recent
-- The newest batches; of one principal, unless the name is empty.
SELECT * FROM job_batches WHERE (CAST(:principal AS text) = '' OR principal = :principal)
ORDER BY created_at DESC, batch_id DESC LIMIT :most

-- name: batches_under_way
-- The batches that are under way, the oldest first.
SELECT * FROM job_batches WHERE ended_at IS NULL ORDER BY created_at, batch_id

-- name: batches_move
-- A piece is done.
UPDATE job_batches SET done = :done, refused_json = :refused_json, place = :place, position = :position
WHERE batch_id = :batch_id

-- name: batches_end
-- A batch ends, once.
UPDATE job_batches SET state = :state, why = :why, ended_at = :ended_at
WHERE batch_id = :batch_id AND ended_at IS NULL
