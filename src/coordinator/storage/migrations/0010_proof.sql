-- The Merkle tree over the log, and its signed checkpoints.

-- The tree in tiles of up to 256 hashes (32 bytes each). Derived from the log; a rebuild gives the same.
-- At level 0 `positions` has the leaves' positions, 8 bytes each, the highest first; above it is empty.
CREATE TABLE merkle_tiles (
    level bigint NOT NULL,
    tile bigint NOT NULL,
    hashes bytea NOT NULL,
    positions bytea NOT NULL,
    first_position bigint NOT NULL,
    PRIMARY KEY (level, tile)
);
CREATE INDEX merkle_tiles_by_position ON merkle_tiles (level, first_position);

-- The names under which checkpoints were signed; the last one counts. A second one is an operator's decision after
-- a restored backup: `left_origin` and `left_size` say what was signed last under the name before. Not derived.
CREATE TABLE log_origins (
    number bigint PRIMARY KEY,
    origin text NOT NULL,
    at bigint NOT NULL,
    left_origin text NOT NULL,
    left_size bigint NOT NULL,
    reason text NOT NULL
);

-- Every checkpoint ever signed. Not derived: others have them, too. `position` is that of the last leaf.
CREATE TABLE checkpoints (
    origin text NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    position bigint NOT NULL,
    signed_at bigint NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (origin, size)
);

-- The witnesses' signature lines under checkpoints. Not derived.
CREATE TABLE cosignatures (
    origin text NOT NULL,
    size bigint NOT NULL,
    witness text NOT NULL,
    line text NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (origin, size, witness)
);
CREATE INDEX cosignatures_by_witness ON cosignatures (origin, witness, size);
