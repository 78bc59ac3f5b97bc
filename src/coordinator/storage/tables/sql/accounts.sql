-- Money: the reads of the HTTP edge, and the holds of the follower that settles jobs.

-- name: accounts_one
-- An account, and its credits that are pending at a moment.
SELECT accounts.*,
  (SELECT COALESCE(CAST(SUM(amount) AS bigint), 0) FROM entries
   WHERE entries.party = accounts.party AND available_at > :now)
  - (SELECT COALESCE(CAST(SUM(credit) AS bigint), 0) FROM contested_payments AS contested
     WHERE contested.miner = accounts.party AND available_at > :now AND frozen = 1) AS pending
FROM accounts WHERE party = :party

-- name: accounts_list
-- A page of accounts by party, and their credits that are pending at a moment.
SELECT accounts.*,
  (SELECT COALESCE(CAST(SUM(amount) AS bigint), 0) FROM entries
   WHERE entries.party = accounts.party AND available_at > :now)
  - (SELECT COALESCE(CAST(SUM(credit) AS bigint), 0) FROM contested_payments AS contested
     WHERE contested.miner = accounts.party AND available_at > :now AND frozen = 1) AS pending
FROM accounts WHERE party > :after ORDER BY party LIMIT :page_size

-- name: accounts_entries
-- A page of an account's lines, newest first, with their services, and what became of the payments. An entry has a line
-- at least, so that no more entries than lines are looked at.
SELECT lines.*, jobs.service, contested.status AS contested
FROM account_lines AS lines LEFT JOIN jobs ON jobs.job_id = lines.job_id
LEFT JOIN contested_payments AS contested ON contested.job_id = lines.job_id
WHERE lines.party = :party AND posted_position <= :before AND (posted_position < :before OR place < :place)
  AND posted_position >= (
    SELECT COALESCE(MIN(posted_position), 0) FROM (
      SELECT posted_position FROM entries WHERE party = :party AND posted_position <= :before
      ORDER BY posted_position DESC LIMIT :page_size + 1) AS newest)
ORDER BY posted_position DESC, place DESC LIMIT :page_size

-- name: accounts_lines
-- The lines of an account in a period, oldest first, and what became of the payments.
SELECT lines.*, contested.status AS contested
FROM account_lines AS lines LEFT JOIN contested_payments AS contested ON contested.job_id = lines.job_id
WHERE lines.party = :party AND posted_at >= :since AND posted_at < :until
ORDER BY posted_position, place LIMIT :most

-- name: accounts_opening
-- The sum of all entries before a period.
SELECT COALESCE(CAST(SUM(amount) AS bigint), 0) AS opening FROM entries
WHERE party = :party AND posted_at < :since

-- name: accounts_holds
-- The money that is set aside for a client's open jobs, and for those that wait for a partial statement.
SELECT job_id, hold AS amount, requested_at AS held_at FROM jobs
WHERE client = :party AND state IN ('QUEUED', 'RUNNING') AND hold > 0
UNION ALL SELECT jobs.job_id, jobs.hold AS amount, jobs.requested_at AS held_at FROM payments
JOIN jobs ON jobs.job_id = payments.job_id
LEFT JOIN contested_payments AS billed ON billed.job_id = payments.job_id
WHERE payments.client = :party AND payments.kept_until IS NOT NULL AND billed.job_id IS NULL
ORDER BY held_at, job_id LIMIT :most

-- name: accounts_by_day
-- What a party spent and earned since a moment, by day (UTC) and service: payments, less their refunds.
SELECT posted_at / 86400000 AS day, COALESCE(jobs.service, '') AS service,
  CAST(SUM(CASE WHEN (kind = 'payment') = (amount < 0) THEN -amount ELSE 0 END) AS bigint) AS spent,
  CAST(SUM(CASE WHEN (kind = 'payment') = (amount < 0) THEN 0 ELSE amount END) AS bigint) AS earned,
  SUM(CASE WHEN kind = 'payment' AND amount < 0 THEN 1 ELSE 0 END) AS paid_jobs,
  SUM(CASE WHEN kind = 'payment' AND amount > 0 THEN 1 ELSE 0 END) AS credited_jobs
FROM account_lines LEFT JOIN jobs ON jobs.job_id = account_lines.job_id
WHERE party = :party AND posted_at >= :since AND kind IN ('payment', 'refund')
GROUP BY posted_at / 86400000, COALESCE(jobs.service, '')

-- name: accounts_pending_until
-- When the first and the last of a party's pending credits become available; null for none.
SELECT MIN(available_at) AS first_at, MAX(available_at) AS last_at FROM entries
WHERE party = :party AND available_at > :now

-- name: accounts_is_paid
-- Whether a party was credited or debited for a job.
SELECT 1 AS found FROM payments
WHERE job_id = :job_id AND amount > 0 AND (client = :party OR miner = :party)
UNION ALL SELECT 1 FROM contested_payments
WHERE job_id = :job_id AND amount > 0 AND (client = :party OR miner = :party)

-- name: accounts_hold_lines
-- The same, the newest first.
SELECT job_id, client, hold AS amount, requested_at AS held_at, service, state FROM jobs
WHERE client = :party AND state IN ('QUEUED', 'RUNNING') AND hold > 0
UNION ALL SELECT jobs.job_id, jobs.client, jobs.hold AS amount, jobs.requested_at AS held_at, jobs.service,
  jobs.state FROM payments JOIN jobs ON jobs.job_id = payments.job_id
LEFT JOIN contested_payments AS billed ON billed.job_id = payments.job_id
WHERE payments.client = :party AND payments.kept_until IS NOT NULL AND billed.job_id IS NULL
ORDER BY held_at DESC, job_id LIMIT :most

-- name: accounts_totals
-- All accounts together.
SELECT COUNT(*) AS accounts, COALESCE(CAST(SUM(balance) AS bigint), 0) AS balance,
  COALESCE(CAST(SUM(held) AS bigint), 0) AS held,
  COALESCE(CAST(SUM(disputed) AS bigint), 0) AS disputed
FROM accounts

-- name: accounts_disputes
-- The open disputes, the newest first.
SELECT contested.job_id, contested.miner, contested.credit, payments.settled_at AS posted_at, contested.client,
  jobs.service, contested.amount AS price
FROM contested_payments AS contested JOIN payments ON payments.job_id = contested.job_id
LEFT JOIN jobs ON jobs.job_id = contested.job_id
WHERE contested.status = 'DISPUTED' ORDER BY contested.changed_at DESC, contested.job_id LIMIT :most

-- name: accounts_unsettled
-- Of the newest jobs, those that ended before a moment and keep their hold.
SELECT COUNT(*) AS jobs, MIN(finished_at) AS ended_at
FROM (SELECT job_id, finished_at, hold FROM jobs ORDER BY requested_at DESC, job_id DESC LIMIT :most) AS newest
WHERE finished_at < :before AND hold > 0
  AND NOT EXISTS (SELECT 1 FROM payments WHERE payments.job_id = newest.job_id)

-- name: accounts_kept
-- Cancelled jobs whose holds wait for partial statements.
SELECT payments.job_id, payments.kept_until FROM payments
LEFT JOIN contested_payments AS billed ON billed.job_id = payments.job_id
WHERE payments.kept_until IS NOT NULL AND billed.job_id IS NULL

-- name: accounts_payment
-- The settlement of a job, and what became of its payment since.
SELECT payments.*, contested.status AS contested, contested.amount AS billed, contested.miner AS billed_miner,
  contested.available_at AS billed_until
FROM payments LEFT JOIN contested_payments AS contested ON contested.job_id = payments.job_id
WHERE payments.job_id = :job_id
