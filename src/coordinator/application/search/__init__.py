"""Search: the query language of jobs, and pages and counts of the jobs that match."""
