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

-- name: accounts_by_day
-- What a party spent and earned since a moment, by day (UTC) and service: payments, less their refunds.
SELECT posted_at / 86400000 AS day, COALESCE(jobs.service, '') AS service,
  CAST(SUM(CASE WHEN (kind = 'payment') = (amount < 0) THEN -amount ELSE 0 END) AS bigint) AS spent,
  CAST(SUM(CASE WHEN (kind = 'payment') = (amount < 0) THEN 0 ELSE amount END) AS bigint) AS earned,
  SUM(CASE WHEN kind = 'payment' AND amount < 0 THEN 1 ELSE 0 END) AS paid_jobs,
  SUM(CASE WHEN kind = 'payment' AND amount > 0 THEN 1 ELSE 0 END) AS credited_jobs
FROM entries LEFT JOIN jobs ON jobs.job_id = entries.job_id
WHERE party = :party AND posted_at >= :since AND kind IN ('payment', 'refund')
GROUP BY posted_at / 86400000, COALESCE(jobs.service, '')

-- name: accounts_entry_lines
-- A page of an account's entries, newest first, with their services, and whether a payment was refunded.
SELECT entries.*, jobs.service,
  EXISTS (SELECT 1 FROM entries AS back
    WHERE back.entry_id = 'refund/' || entries.job_id || '|' || entries.party) AS refunded
FROM entries LEFT JOIN jobs ON jobs.job_id = entries.job_id
WHERE party = :party AND posted_position < :before
ORDER BY posted_position DESC LIMIT :page_size

-- name: accounts_pending_until
-- When the first and the last of a party's pending credits become available; null for none.
SELECT MIN(available_at) AS first_at, MAX(available_at) AS last_at FROM entries
WHERE party = :party AND available_at > :now AND disputed = 0

-- name: accounts_is_paid
-- Whether a party was credited or debited for a job.
SELECT 1 AS found FROM entries WHERE entry_id = :entry_id

-- name: accounts_hold_lines
-- The money that is set aside for a client's jobs, the newest first, with their services and states.
SELECT open_holds.*, jobs.service, jobs.state FROM open_holds
LEFT JOIN jobs ON jobs.job_id = open_holds.job_id
WHERE open_holds.client = :party ORDER BY held_at DESC, open_holds.job_id LIMIT :most

-- name: accounts_totals
-- All accounts together.
SELECT COUNT(*) AS accounts, COALESCE(CAST(SUM(balance) AS bigint), 0) AS balance,
  COALESCE(CAST(SUM(held) AS bigint), 0) AS held,
  COALESCE(CAST(SUM(disputed) AS bigint), 0) AS disputed
FROM accounts

-- name: accounts_disputes
-- The open disputes, the newest payments first. A refund ends one, and leaves the payment's mark.
SELECT credit.job_id, credit.party AS miner, credit.amount AS credit, credit.posted_at, jobs.client,
  jobs.service, -debit.amount AS price
FROM entries AS credit LEFT JOIN jobs ON jobs.job_id = credit.job_id
LEFT JOIN entries AS debit ON debit.entry_id = credit.posting || '|' || jobs.client
WHERE credit.disputed = 1 AND NOT EXISTS (SELECT 1 FROM entries AS back
  WHERE back.entry_id = 'refund/' || credit.job_id || '|' || credit.party)
ORDER BY credit.posted_position DESC LIMIT :most

-- name: accounts_unsettled
-- Of the jobs that have ended and keep their hold, those held longest: their number, and the first end.
SELECT COUNT(*) AS jobs, MIN(jobs.finished_at) AS ended_at
FROM (SELECT job_id FROM open_holds WHERE ended = 1 ORDER BY held_at LIMIT :most) AS due
JOIN jobs ON jobs.job_id = due.job_id

-- name: settler_due
-- Holds of jobs that have ended.
SELECT job_id FROM open_holds WHERE ended = 1 ORDER BY held_at LIMIT :count
