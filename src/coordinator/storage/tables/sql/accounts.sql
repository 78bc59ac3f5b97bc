-- Money: the reads of the HTTP edge, and the holds of the follower that settles jobs.

-- name: accounts_one
-- An account, and its credits that are pending at a moment.
SELECT accounts.*,
  (SELECT COALESCE(CAST(SUM(amount) AS bigint), 0) FROM entries
   WHERE entries.party = accounts.party AND available_at > :now AND disputed = 0) AS pending
FROM accounts WHERE party = :party

-- name: accounts_list
-- A page of accounts by party, and their credits that are pending at a moment.
SELECT accounts.*,
  (SELECT COALESCE(CAST(SUM(amount) AS bigint), 0) FROM entries
   WHERE entries.party = accounts.party AND available_at > :now AND disputed = 0) AS pending
FROM accounts WHERE party > :after ORDER BY party LIMIT :page_size

-- name: accounts_entries
-- A page of an account's entries, newest first.
SELECT * FROM entries WHERE party = :party AND posted_position < :before
ORDER BY posted_position DESC LIMIT :page_size

-- name: accounts_lines
-- The entries of an account in a period, oldest first.
SELECT * FROM entries WHERE party = :party AND posted_at >= :since AND posted_at < :until
ORDER BY posted_position LIMIT :most

-- name: accounts_opening
-- The sum of all entries before a period.
SELECT COALESCE(CAST(SUM(amount) AS bigint), 0) AS opening FROM entries
WHERE party = :party AND posted_at < :since

-- name: accounts_holds
-- The money that is set aside for a client's jobs.
SELECT * FROM open_holds WHERE client = :party ORDER BY held_at, job_id LIMIT :most

-- name: settler_due
-- Holds of jobs that have ended.
SELECT job_id FROM open_holds WHERE ended = 1 ORDER BY held_at LIMIT :count
