-- One entry of a party for all payments of a settlement; the payments are rows of their own, and so are their disputes.

CREATE TABLE payments (
    job_id text PRIMARY KEY,
    number bigint NOT NULL, -- of the settlement
    place bigint NOT NULL, -- in it
    client text NOT NULL,
    miner text, -- null if the job cost nothing
    attempt bigint,
    amount bigint NOT NULL,
    fee bigint NOT NULL,
    units text,
    unit_type text,
    available_at bigint NOT NULL,
    settled_at bigint NOT NULL,
    kept_until bigint, -- while the hold of a job that was cancelled at work waits for a partial statement
    position bigint NOT NULL
);
CREATE INDEX payments_kept ON payments (kept_until) WHERE kept_until IS NOT NULL;
CREATE INDEX payments_of_settlement ON payments (number, place);

CREATE TABLE contested_payments (
    job_id text PRIMARY KEY,
    client text NOT NULL,
    miner text NOT NULL,
    amount bigint NOT NULL,
    credit bigint NOT NULL,
    available_at bigint NOT NULL,
    status text NOT NULL,
    frozen bigint NOT NULL,
    changed_at bigint NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX contested_open ON contested_payments (changed_at) WHERE status = 'DISPUTED';
CREATE INDEX contested_frozen ON contested_payments (miner, available_at) WHERE frozen = 1;

-- What is held is a column of the job.
DROP TABLE open_holds;
ALTER TABLE jobs ADD COLUMN hold bigint;

DROP INDEX entries_disputed;
ALTER TABLE entries DROP COLUMN disputed;
ALTER TABLE entries ADD COLUMN settlement bigint;
ALTER TABLE settlement_receipts RENAME COLUMN leaf TO leaves;

-- The entries of accounts, with one line for each payment of a settlement, of which an entry has the sum.
CREATE VIEW account_lines AS
SELECT entries.party, entries.posting, entries.kind, entries.reason, entries.posted_at, entries.posted_position,
    entries.available_at,
    COALESCE(paid.place, 0) AS place,
    COALESCE(paid.job_id, entries.job_id) AS job_id,
    COALESCE(paid.attempt, entries.attempt) AS attempt,
    COALESCE(paid.units, entries.units) AS units,
    COALESCE(paid.unit_type, entries.unit_type) AS unit_type,
    CASE WHEN paid.job_id IS NULL THEN entries.amount
        WHEN entries.party = '@fees' THEN paid.fee
        WHEN entries.amount < 0 THEN -paid.amount
        ELSE paid.amount - paid.fee END AS amount,
    CASE WHEN paid.job_id IS NULL THEN entries.balance ELSE entries.balance - (
        SELECT COALESCE(CAST(SUM(CASE WHEN entries.party = '@fees' THEN later.fee
            WHEN entries.amount < 0 THEN -later.amount
            ELSE later.amount - later.fee END) AS bigint), 0)
        FROM payments AS later
        WHERE later.number = entries.settlement AND later.place > paid.place
            AND (entries.party = '@fees' OR (entries.amount < 0 AND later.client = entries.party)
                OR (entries.amount > 0 AND later.miner = entries.party))) END AS balance
FROM entries LEFT JOIN payments AS paid ON paid.number = entries.settlement AND paid.amount > 0
    AND ((entries.party = '@fees' AND paid.fee > 0)
        OR (entries.amount < 0 AND paid.client = entries.party)
        OR (entries.amount > 0 AND entries.party <> '@fees' AND paid.miner = entries.party));
