-- Settlement batches (follower settlements): batches and their payouts, who may be paid, and the payments that no
-- batch covers yet. Amounts are whole numbers of 10⁻⁶ of the unit.

CREATE TABLE settlements (
    number bigint PRIMARY KEY,
    sink text NOT NULL,
    state text NOT NULL,
    after_position bigint NOT NULL,
    until_position bigint NOT NULL,
    receipts bigint NOT NULL,
    receipts_root text NOT NULL,
    payouts bigint NOT NULL,
    total bigint NOT NULL,
    confirmed bigint NOT NULL,
    refused bigint NOT NULL,
    previous text NOT NULL,
    digest text NOT NULL,
    part bigint NOT NULL,
    first bigint NOT NULL, -- the first payout that is neither confirmed nor refused
    part_payouts bigint NOT NULL, -- of the part that is prepared; 0 for none
    nonce bigint,
    hash text,
    payout_root text,
    confirmations bigint,
    reason text NOT NULL,
    closed_at bigint NOT NULL,
    changed_at bigint NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX settlements_open ON settlements (state);

CREATE TABLE settlement_payouts (
    payout_id text PRIMARY KEY, -- number || '/' || place
    number bigint NOT NULL,
    place bigint NOT NULL, -- from 0 on
    party text NOT NULL,
    sink text NOT NULL,
    address text NOT NULL,
    amount bigint NOT NULL,
    state text NOT NULL,
    hash text,
    changed_at bigint NOT NULL
);
CREATE INDEX settlement_payouts_of_batch ON settlement_payouts (number, place);
CREATE INDEX settlement_payouts_of_party ON settlement_payouts (party, number);
CREATE INDEX settlement_payouts_of_sink ON settlement_payouts (sink, state, address);

CREATE TABLE settlement_payees (
    party text PRIMARY KEY,
    sink text NOT NULL,
    address text NOT NULL,
    earned bigint NOT NULL,
    since bigint NOT NULL -- the position since which it has earned money
);
CREATE INDEX settlement_payees_since ON settlement_payees (since);

CREATE TABLE settlement_receipts (
    position bigint PRIMARY KEY,
    leaf text NOT NULL
);
