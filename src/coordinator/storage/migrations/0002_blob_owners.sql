-- Who uploaded which blob: the right to refer to it. Not derived from the log (the upload is the fact), so a
-- rebuild of the read models leaves it alone.

CREATE TABLE blob_owners (
    key text PRIMARY KEY, -- digest || '/' || principal
    digest text NOT NULL,
    principal text NOT NULL,
    size bigint NOT NULL,
    at bigint NOT NULL
);
