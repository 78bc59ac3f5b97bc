-- A receipt is made from the events of its job when somebody asks. What is left of this table, the billed units
-- and their price, is two columns of the job's own row: one row less to write for each job.

DROP TABLE receipts;
ALTER TABLE jobs ADD COLUMN units text;
ALTER TABLE jobs ADD COLUMN price text;
