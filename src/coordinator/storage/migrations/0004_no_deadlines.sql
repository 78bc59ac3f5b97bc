-- How long a job may live and run is in open_work already: a table that says it again cost two writes a job.

DROP TABLE deadlines;
ALTER TABLE leases RENAME COLUMN run_until TO started_at;
CREATE INDEX open_work_by_end ON open_work (expires_at);
