-- The evidence ledger: a Merkle tree (RFC 6962) over the exact bytes of its records. Rows are only ever
-- added. What a column repeats from the record's body serves queries and proves nothing.

CREATE TABLE ledger_head (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    origin TEXT NOT NULL,                       -- the log's name, in every checkpoint
    size   BIGINT NOT NULL,                     -- number of records
    root   BLOB NOT NULL,                        -- hash of the tree with that many records
    keys   BIGINT NOT NULL                      -- how often the signing key has changed
);

CREATE TABLE ledger_records (
    idx    BIGINT PRIMARY KEY,                  -- from 0, without gaps
    id     TEXT NOT NULL UNIQUE,
    target TEXT NOT NULL,
    body   BLOB NOT NULL,                       -- canonical JSON (RFC 8785): the bytes that are hashed
    hashes BLOB NOT NULL                        -- leaf hash, then the subtrees that this record completes
);
CREATE INDEX ledger_records_target ON ledger_records (target, idx) WHERE target <> '';

CREATE TABLE ledger_checkpoints (
    size BIGINT PRIMARY KEY,
    note TEXT NOT NULL                          -- signed note (c2sp.org/tlog-checkpoint)
);

-- A guard against mistakes; tampering is what the hashes are for.
CREATE TRIGGER ledger_records_keep BEFORE UPDATE ON ledger_records
BEGIN SELECT RAISE(ABORT, 'evidence records are never changed'); END;
CREATE TRIGGER ledger_records_stay BEFORE DELETE ON ledger_records
BEGIN SELECT RAISE(ABORT, 'evidence records are never deleted'); END;
