-- Webhooks: the follower's receivers, the messages that are due, and the log of deliveries.

-- name: webhooks_targets
-- All receivers.
SELECT webhook_id, owner, role, events, enabled FROM webhook_targets

-- name: webhooks_count_callbacks
-- How many open jobs name a URL.
SELECT COUNT(*) AS jobs FROM webhook_callbacks

-- name: webhooks_callbacks_of
-- The URLs that these jobs name.
SELECT job_id, client, sealed_url FROM webhook_callbacks WHERE job_id IN (:job_ids)

-- name: webhooks_known
-- Those of these messages that are there already.
SELECT delivery_id FROM webhook_deliveries WHERE delivery_id IN (:delivery_ids)

-- name: webhooks_replay_these
-- Make these messages of a webhook due again.
UPDATE webhook_deliveries
SET state = 'PENDING', round = round + 1, tries = 0, due_at = :now, tried_at = NULL, done_at = NULL
WHERE webhook_id = :webhook_id AND delivery_id IN (:delivery_ids)

-- name: webhooks_replay_since
-- Make the undelivered messages of a webhook due again.
UPDATE webhook_deliveries
SET state = 'PENDING', round = round + 1, tries = 0, due_at = :now, tried_at = NULL, done_at = NULL
WHERE webhook_id = :webhook_id AND at >= :since AND state = 'FAILED'

-- name: webhooks_queues
-- When each receiver's first message is due.
SELECT webhook_id, owner, MIN(due_at) AS due_at FROM webhook_deliveries
WHERE due_at IS NOT NULL
GROUP BY webhook_id, owner

-- name: webhooks_all_health
-- How each receiver fared.
SELECT webhook_id, failures, succeeded_at FROM webhook_health

-- name: webhooks_due
-- The next messages of a receiver, the first due first.
SELECT delivery_id, webhook_id, owner, type, subject, position, at, data_json, sealed_url,
       round, tries, due_at, tried_at, attempts_json
FROM webhook_deliveries
WHERE webhook_id = :webhook_id AND due_at IS NOT NULL
ORDER BY due_at LIMIT :count

-- name: webhooks_record
-- What became of a try, unless a replay came between.
UPDATE webhook_deliveries
SET state = :state, tries = :tries, due_at = :due_at, tried_at = :tried_at, done_at = :done_at,
    attempts_json = :attempts_json
WHERE delivery_id = :delivery_id AND round = :round

-- name: webhooks_give_up
-- Send these no more.
UPDATE webhook_deliveries
SET state = 'FAILED', due_at = NULL, done_at = :now
WHERE delivery_id IN (:delivery_ids) AND due_at IS NOT NULL

-- name: webhooks_forget
-- Remove messages about events before a moment, apart from those still due.
DELETE FROM webhook_deliveries
WHERE delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE at < :before AND due_at IS NULL ORDER BY at LIMIT :count
)

-- name: webhooks_succeeded
-- A receiver answered well.
INSERT INTO webhook_health (webhook_id, failures, succeeded_at, failed_at, last_error)
VALUES (:webhook_id, 0, :at, NULL, '')
ON CONFLICT (webhook_id) DO UPDATE SET failures = 0, succeeded_at = excluded.succeeded_at

-- name: webhooks_failed
-- A receiver failed.
INSERT INTO webhook_health (webhook_id, failures, succeeded_at, failed_at, last_error)
VALUES (:webhook_id, 1, NULL, :at, :error)
ON CONFLICT (webhook_id) DO UPDATE SET
    failures = webhook_health.failures + 1, failed_at = excluded.failed_at, last_error = excluded.last_error

-- name: webhooks_ids_of
-- The webhooks that an owner has.
SELECT webhook_id FROM webhooks WHERE owner = :owner AND role = :role AND removed_at IS NULL

-- name: webhooks_list[_of_owner]
-- A page of webhooks by owner and id, and how their receivers fared.
SELECT webhooks.*, failures, succeeded_at, failed_at, last_error
FROM webhooks LEFT JOIN webhook_health ON webhook_health.webhook_id = webhooks.webhook_id
WHERE removed_at IS NULL
  AND (owner, webhooks.webhook_id) > (:after_owner, :after_id)
  AND owner = :owner AND role = :role -- [_of_owner]
ORDER BY owner, webhooks.webhook_id LIMIT :page_size

-- name: webhooks_show
-- One webhook, and how its receiver fared.
SELECT webhooks.*, failures, succeeded_at, failed_at, last_error
FROM webhooks LEFT JOIN webhook_health ON webhook_health.webhook_id = webhooks.webhook_id
WHERE webhooks.webhook_id = :webhook_id AND removed_at IS NULL

-- name: webhooks_deliveries
-- A page of a webhook's messages, the newest first.
SELECT delivery_id, webhook_id, owner, type, subject, position, at, state, round, tries, due_at, done_at,
       attempts_json
FROM webhook_deliveries
WHERE webhook_id = :webhook_id
  AND (position, delivery_id) < (:before_position, :before_id)
  AND (:state = '' OR state = :state)
  AND (:subject = '' OR subject = :subject)
ORDER BY position DESC, delivery_id DESC LIMIT :page_size

-- name: webhooks_delivery
-- One message.
SELECT delivery_id, webhook_id, owner, type, subject, position, at, state, round, tries, due_at, done_at,
       attempts_json
FROM webhook_deliveries WHERE delivery_id = :delivery_id
