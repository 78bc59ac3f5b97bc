-- The read model of API keys (projector): what an admin sees. Nothing in it proves or opens anything.

CREATE TABLE api_keys (
    key_id text PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL,
    label text NOT NULL,
    signed bigint NOT NULL,
    generation bigint NOT NULL,
    created_at bigint NOT NULL,
    created_by text NOT NULL,
    expires_at bigint,
    rotated_at bigint,
    old_until bigint,
    revoked_at bigint,
    revoked_by text,
    reason text,
    position bigint NOT NULL
);
CREATE INDEX api_keys_by_name ON api_keys (name, key_id);
