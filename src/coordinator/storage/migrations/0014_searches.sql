-- Searches for jobs by their error, and for jobs that were tried again. Only such jobs cost a write here.

CREATE INDEX jobs_by_error ON jobs (error_code, requested_at, job_id) WHERE error_code IS NOT NULL;
CREATE INDEX jobs_tried_again ON jobs (requested_at, job_id) WHERE attempt > 1;
