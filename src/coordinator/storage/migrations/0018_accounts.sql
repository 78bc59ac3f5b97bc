-- Money: the read models of accounts and of their entries (projector), and the holds that are not settled (settler).
-- Amounts are whole numbers of 10⁻⁶ of the unit.

CREATE TABLE accounts (
    party text PRIMARY KEY,
    balance bigint NOT NULL,
    held bigint NOT NULL,
    disputed bigint NOT NULL,
    changed_at bigint NOT NULL,
    position bigint NOT NULL
);

CREATE TABLE entries (
    entry_id text PRIMARY KEY, -- posting || '|' || party
    party text NOT NULL,
    posting text NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    balance bigint NOT NULL,
    job_id text,
    attempt bigint,
    available_at bigint,
    disputed bigint NOT NULL,
    reason text NOT NULL,
    posted_at bigint NOT NULL,
    posted_position bigint NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX entries_of_party ON entries (party, posted_position);
CREATE INDEX entries_by_time ON entries (party, posted_at);
CREATE INDEX entries_pending ON entries (party, available_at);

CREATE TABLE open_holds (
    job_id text PRIMARY KEY,
    client text NOT NULL,
    amount bigint NOT NULL,
    held_at bigint NOT NULL,
    ended bigint NOT NULL
);
CREATE INDEX open_holds_of_client ON open_holds (client, held_at);
CREATE INDEX open_holds_due ON open_holds (ended, held_at);
