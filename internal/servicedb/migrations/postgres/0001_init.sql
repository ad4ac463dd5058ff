-- Inventory, rotation records and schedules. Times are microseconds since 1970 in UTC; NULL is "none".
-- Names sort by their bytes, as in SQLite, whatever the database's locale.

CREATE TABLE targets (
    name            TEXT COLLATE "C" PRIMARY KEY,
    kind            TEXT NOT NULL DEFAULT '',
    owner           TEXT NOT NULL DEFAULT '',
    policy          TEXT NOT NULL DEFAULT '',
    spec            TEXT NOT NULL DEFAULT '',   -- digest of what the due date depends on
    exclusion_group TEXT COLLATE "C" NOT NULL DEFAULT '',
    declared        BOOLEAN NOT NULL,           -- in the configuration now
    removed_at      BIGINT,                     -- when it left the configuration
    observed        BOOLEAN NOT NULL DEFAULT FALSE, -- adopted: looked at, never changed
    paused          BOOLEAN NOT NULL DEFAULT FALSE,

    fingerprint       TEXT COLLATE "C" NOT NULL DEFAULT '', -- what consumers can see
    fingerprint_epoch BIGINT NOT NULL DEFAULT 0,
    fingerprint_at    BIGINT NOT NULL DEFAULT 0,

    looked_at BIGINT NOT NULL DEFAULT 0,        -- when it was last looked at and left alone

    due_at     BIGINT,
    due_epoch  BIGINT NOT NULL DEFAULT 0,
    due_set_at BIGINT NOT NULL DEFAULT 0,

    held_until  BIGINT,
    held_at     BIGINT NOT NULL DEFAULT 0,
    held_by     TEXT NOT NULL DEFAULT '',       -- the run that failed: a repeated hold counts once
    hold_reason TEXT NOT NULL DEFAULT '',
    failures    BIGINT NOT NULL DEFAULT 0,

    last_rotation TEXT NOT NULL DEFAULT '',
    last_epoch    BIGINT NOT NULL DEFAULT 0,
    last_state    TEXT NOT NULL DEFAULT '',
    updated_at    BIGINT NOT NULL DEFAULT 0,

    -- When the sweep must look at the target; NULL leaves it out of the index. A quarantined target waits for a
    -- person; an observed one, which stays due for ever, is looked at once a day.
    next_at BIGINT GENERATED ALWAYS AS (
        CASE WHEN paused OR NOT declared OR last_state = 'QUARANTINED' THEN NULL
             WHEN observed AND looked_at > 0 AND looked_at + 86400000000 > COALESCE(held_until, 0) THEN looked_at + 86400000000
             WHEN held_until > due_at THEN held_until
             ELSE due_at END
    ) STORED
);
CREATE INDEX targets_next ON targets (next_at, name) WHERE next_at IS NOT NULL;
CREATE INDEX targets_group ON targets (exclusion_group, name) WHERE exclusion_group <> '';

CREATE TABLE credentials (
    target        TEXT COLLATE "C" NOT NULL,
    fingerprint   TEXT COLLATE "C" NOT NULL,
    serial        TEXT COLLATE "C" NOT NULL DEFAULT '',
    not_before    BIGINT,
    not_after     BIGINT,
    key_algorithm TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (target, fingerprint)
);

CREATE TABLE rotations (
    rotation        TEXT COLLATE "C" PRIMARY KEY,
    target          TEXT COLLATE "C" NOT NULL,
    epoch           BIGINT NOT NULL,
    state           TEXT NOT NULL,
    state_at        BIGINT NOT NULL,
    state_epoch     BIGINT NOT NULL,            -- a rollback has a newer epoch than its rotation
    trigger_source  TEXT NOT NULL DEFAULT '',
    trigger_actor   TEXT NOT NULL DEFAULT '',
    trigger_reason  TEXT NOT NULL DEFAULT '',
    workflow        TEXT NOT NULL DEFAULT '',
    run             TEXT NOT NULL DEFAULT '',
    started_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    published_at    BIGINT,
    ended_at        BIGINT,
    candidate       TEXT NOT NULL DEFAULT '',   -- fingerprint
    candidate_at    BIGINT NOT NULL DEFAULT 0,
    key_id          TEXT NOT NULL DEFAULT '',
    previous        TEXT NOT NULL DEFAULT '',   -- fingerprint
    sentence        TEXT NOT NULL DEFAULT '',
    sentence_at     BIGINT NOT NULL DEFAULT 0,
    stragglers      TEXT NOT NULL DEFAULT '',   -- JSON array
    stragglers_at   BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX rotations_target ON rotations (target, epoch);
CREATE INDEX rotations_started ON rotations (started_at, rotation);
CREATE INDEX rotations_open ON rotations (target) WHERE ended_at IS NULL;
CREATE INDEX rotations_outcome ON rotations (state) WHERE ended_at IS NOT NULL;

CREATE TABLE consumers (
    target   TEXT COLLATE "C" NOT NULL,
    consumer TEXT COLLATE "C" NOT NULL,
    address  TEXT COLLATE "C" NOT NULL,                     -- empty: the consumer as a whole
    standing TEXT NOT NULL,
    serves   TEXT NOT NULL DEFAULT '',
    detail   TEXT NOT NULL DEFAULT '',
    since    BIGINT NOT NULL,
    seen_at  BIGINT NOT NULL,
    PRIMARY KEY (target, consumer, address)
);
CREATE INDEX consumers_unproven ON consumers (target, consumer, address) WHERE standing <> 'candidate';

CREATE TABLE schedule_successes (
    schedule        TEXT COLLATE "C" PRIMARY KEY,
    last_success_at BIGINT,
    last_started_at BIGINT
);

CREATE TABLE issued_not_received (
    target   TEXT COLLATE "C" NOT NULL,
    rotation TEXT COLLATE "C" NOT NULL,
    serial   TEXT COLLATE "C" NOT NULL,                     -- decimal, or unknown
    at       BIGINT NOT NULL,
    PRIMARY KEY (target, rotation, serial)
);
