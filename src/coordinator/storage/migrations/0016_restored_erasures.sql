-- Erasures that a restored log does not have: the next start repeats them, with events that say so.

CREATE TABLE restored_erasures (
    key text PRIMARY KEY, -- job_id || '/' || kind
    by_name text NOT NULL, -- the name that erased it first
    reason text NOT NULL
);
