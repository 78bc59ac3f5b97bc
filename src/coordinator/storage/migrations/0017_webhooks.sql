-- Webhooks: the read model, the receivers as the follower "webhooks" knows them, and the messages to them.

-- The read model of webhooks (projector).
CREATE TABLE webhooks (
    webhook_id text PRIMARY KEY,
    owner text NOT NULL,
    role text NOT NULL,
    host text NOT NULL,
    sealed_url text NOT NULL, -- readable with the coordinator's signing key only
    events text NOT NULL, -- separated by spaces
    label text NOT NULL,
    enabled bigint NOT NULL,
    disabled_reason text NOT NULL,
    generation bigint NOT NULL,
    old_until bigint,
    created_at bigint NOT NULL,
    changed_at bigint NOT NULL,
    removed_at bigint,
    position bigint NOT NULL
);
CREATE INDEX webhooks_by_owner ON webhooks (owner, webhook_id);

-- Whom the follower tells what, as of its own position; and how each receiver fared.
CREATE TABLE webhook_targets (
    webhook_id text PRIMARY KEY,
    owner text NOT NULL,
    role text NOT NULL,
    events text NOT NULL,
    enabled bigint NOT NULL
);
CREATE TABLE webhook_health (
    webhook_id text PRIMARY KEY,
    failures bigint NOT NULL, -- in a row
    succeeded_at bigint,
    failed_at bigint,
    last_error text NOT NULL
);

-- The URLs that open jobs name. A row goes when its job is final.
CREATE TABLE webhook_callbacks (
    job_id text PRIMARY KEY,
    client text NOT NULL,
    sealed_url text NOT NULL
);

-- The messages, due and past. A row is made in the transaction that moves the follower's position; what became
-- of it is in no event, so a rebuild can't make it again.
CREATE TABLE webhook_deliveries (
    delivery_id text PRIMARY KEY, -- the message's webhook-id: follows from the event and the webhook
    webhook_id text NOT NULL, -- for a callback, the id of the client's callbacks
    owner text NOT NULL,
    type text NOT NULL,
    subject text NOT NULL, -- the job, the miner, or the fault
    position bigint NOT NULL, -- of the event
    at bigint NOT NULL, -- of the event
    data_json text, -- null for a job, whose row has the data
    sealed_url text, -- of a callback
    state text NOT NULL, -- PENDING, DELIVERED, FAILED
    round bigint NOT NULL, -- 0, and one more with each replay
    tries bigint NOT NULL, -- of this round
    due_at bigint, -- null unless it is pending
    tried_at bigint, -- the first try of this round
    done_at bigint,
    attempts_json text NOT NULL -- the newest tries: [[at, status, milliseconds, error], …]
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_of ON webhook_deliveries (webhook_id, position, delivery_id);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (at);

-- A log from before has no webhooks: the follower need not read what is there.
INSERT INTO positions (follower, position)
SELECT 'webhooks', position FROM positions WHERE follower = 'projector';
