-- The Merkle tree, its checkpoints and their cosignatures.

-- name: proof_origins
-- The names of the log, the first one first.
SELECT number, origin, left_origin FROM log_origins ORDER BY number

-- name: proof_last_tile
-- The last tile of a level.
SELECT tile, hashes, positions FROM merkle_tiles WHERE level = :level ORDER BY tile DESC LIMIT 1

-- name: proof_tiles
-- These tiles of a level.
SELECT tile, hashes FROM merkle_tiles WHERE level = :level AND tile IN (:tiles)

-- name: proof_leaves
-- One tile of leaves.
SELECT tile, hashes, positions FROM merkle_tiles WHERE level = 0 AND tile = :tile

-- name: proof_leaves_at
-- The tile of leaves that has this position, if any has.
SELECT tile, hashes, positions FROM merkle_tiles
WHERE level = 0 AND first_position <= :position
ORDER BY first_position DESC LIMIT 1

-- name: proof_clear_tiles
-- Before a rebuild.
DELETE FROM merkle_tiles

-- name: proof_latest[_cosigned]
-- The newest checkpoint of a log (with so many cosignatures).
SELECT size, root, position, signed_at, note FROM checkpoints
WHERE origin = :origin
  AND :quorum <= (                                                             -- [_cosigned]
    SELECT COUNT(*) FROM cosignatures                                          -- [_cosigned]
    WHERE cosignatures.origin = checkpoints.origin AND cosignatures.size = checkpoints.size -- [_cosigned]
  )                                                                            -- [_cosigned]
ORDER BY size DESC LIMIT 1

-- name: proof_between
-- The checkpoints of a log of more than `after` and at most `until` leaves.
SELECT size, root FROM checkpoints
WHERE origin = :origin AND size > :after AND size <= :until
ORDER BY size

-- name: proof_checkpoint
-- The checkpoint of a log at a size.
SELECT size, root, position, signed_at, note FROM checkpoints WHERE origin = :origin AND size = :size

-- name: proof_cosignatures
-- The signature lines of witnesses under a checkpoint.
SELECT witness, line FROM cosignatures WHERE origin = :origin AND size = :size ORDER BY witness

-- name: proof_cosigned
-- The largest size that each witness has cosigned.
SELECT witness, MAX(size) AS size FROM cosignatures WHERE origin = :origin GROUP BY witness
