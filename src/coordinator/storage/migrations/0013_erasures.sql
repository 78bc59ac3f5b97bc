-- Erasures: the content that an event says is erased, and the uploads that go with it.

-- Which payload or result was erased, and the position of the first event that says so. Derived from the log, by
-- the follower "eraser"; each row gave back its bytes of the quota once.
CREATE TABLE erased_content (
    key text PRIMARY KEY, -- job_id || '/' || kind
    position bigint NOT NULL
);

-- A log from before has no erasures: the follower need not read what is there.
INSERT INTO positions (follower, position)
SELECT 'eraser', position FROM positions WHERE follower = 'projector';

-- Uploads (keys of blob_owners) that go with erased content, unless another job needs them.
CREATE TABLE erased_uploads (
    key text PRIMARY KEY,
    at bigint NOT NULL
);
CREATE INDEX erased_uploads_by_age ON erased_uploads (at);
