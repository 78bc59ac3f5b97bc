-- Settlement batches: the plan of the next one, its sending, and the reads of the HTTP edge.

-- name: settlements_payable
-- A page of the parties whose earned and available money reaches the minimum, those that wait longest first.
WITH found AS (
  SELECT payees.party, payees.since, payees.address, payees.earned - accounts.disputed AS earned,
    accounts.balance - accounts.held - accounts.disputed AS available,
    (SELECT COALESCE(CAST(SUM(entries.amount) AS bigint), 0) FROM entries
     WHERE entries.party = payees.party AND entries.available_at > :now)
    - (SELECT COALESCE(CAST(SUM(contested.credit) AS bigint), 0) FROM contested_payments AS contested
       WHERE contested.miner = payees.party AND contested.available_at > :now AND contested.frozen = 1) AS pending
  FROM settlement_payees AS payees JOIN accounts ON accounts.party = payees.party
  WHERE payees.earned >= :minimum
    AND (payees.since, payees.party) > (:since, :party)
    AND (:needs_address = 0 OR (payees.sink = :sink AND payees.address <> ''))
), payable AS (
  SELECT party, since, address, CASE WHEN earned < available THEN earned ELSE available END - pending AS amount
  FROM found
)
SELECT party, since, address, amount FROM payable WHERE amount >= :minimum
ORDER BY since, party LIMIT :count

-- name: settlements_last
-- The last batch.
SELECT * FROM settlements ORDER BY number DESC LIMIT 1

-- name: settlements_open
-- Batches that are not settled.
SELECT * FROM settlements WHERE state <> 'SETTLED'

-- name: settlements_leaves
-- The leaves of payments that no batch covers, oldest first.
SELECT position, leaves FROM settlement_receipts
WHERE position > :after AND position <= :until ORDER BY position LIMIT :count

-- name: settlements_covered
-- Forget the leaves of payments that a batch covers.
DELETE FROM settlement_receipts WHERE position <= :until

-- name: settlements_payees
-- Every party that has earned money, or has an address.
SELECT * FROM settlement_payees

-- name: settlements_paid
-- The sums that a sink has paid for good, by address.
SELECT address, CAST(SUM(amount) AS bigint) AS paid FROM settlement_payouts
WHERE sink = :sink AND state = 'PAID' AND address <> '' GROUP BY address

-- name: settlements_last_paid
-- The last batch of which a sink has paid something.
SELECT MAX(number) AS number FROM settlement_payouts WHERE sink = :sink AND state = 'PAID'

-- name: settlements_addresses_of_party
-- The addresses at which a sink has paid a party.
SELECT DISTINCT address FROM settlement_payouts
WHERE party = :party AND sink = :sink AND state = 'PAID' AND address <> ''

-- name: settlements_nonce
-- The last nonce of a sink.
SELECT MAX(nonce) AS nonce FROM settlements WHERE sink = :sink

-- name: settlements_list[_of_party]
-- A page of batches, the newest first; or those with a payout of one party, as far as they concern it.
SELECT settlements.*
FROM settlements -- [no _of_party]
FROM settlements JOIN settlement_payouts AS own ON own.number = settlements.number AND own.party = :party -- [_of_party]
WHERE settlements.number < :before ORDER BY settlements.number DESC LIMIT :page_size

-- name: settlements_payouts[_of_party]
-- The payouts of batches.
SELECT * FROM settlement_payouts WHERE number IN (:numbers)
  AND party = :party -- [_of_party]
ORDER BY number, place

-- name: settlements_one
-- One batch.
SELECT * FROM settlements WHERE number = :number

-- name: settlements_payee
-- The payout address of a party.
SELECT sink, address FROM settlement_payees WHERE party = :party
