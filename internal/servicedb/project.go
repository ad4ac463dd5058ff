package servicedb

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// Project turns one ledger entry into rows of inventory and rotation records. It belongs into the
// transaction that appends the entry.
//
// Projecting an entry again changes nothing, and entries may come in any order: a state never goes
// back, and what a target shows is what the newest epoch left there. A fact that cannot be read is
// left out, because evidence must never be refused for the sake of its projection.
func Project(ctx context.Context, tx *Tx, entry record.Entry) error {
	if entry.Target == "" {
		return nil
	}
	what := read(entry)
	if err := projectCredential(ctx, tx, what); err != nil {
		return failed("project credential", err)
	}
	var rotation *rotationRow
	if entry.Rotation != "" {
		var err error
		if rotation, err = projectRotation(ctx, tx, what); err != nil {
			return failed("project rotation", err)
		}
	}
	if err := projectTarget(ctx, tx, what, rotation); err != nil {
		return failed("project target", err)
	}
	if err := projectConsumers(ctx, tx, what, rotation); err != nil {
		return failed("project consumers", err)
	}
	return failed("project lost certificate", projectLost(ctx, tx, what))
}

// reading is an entry with its facts decoded. An intent tells what somebody is about to do, so no
// state, date or sighting is taken from it.
type reading struct {
	record.Entry
	at         int64
	epoch      int64
	state      activities.State
	dueAt      int64
	notBefore  int64
	notAfter   int64
	stragglers sightings
	converged  []string
	sightings  sightings
}

func read(entry record.Entry) reading {
	r := reading{Entry: entry, at: micros(entry.At), epoch: int64(entry.Epoch)}
	r.Target, r.Workflow, r.Run = text(entry.Target), text(entry.Workflow), text(entry.Run)
	r.Rotation = activities.RotationID(text(string(entry.Rotation)))
	r.Facts = make(map[string]string, len(entry.Facts))
	for name, value := range entry.Facts {
		r.Facts[name] = text(value)
	}
	r.notBefore = r.date(record.FactNotBefore)
	r.notAfter = r.date(record.FactNotAfter)
	if entry.Phase == record.Intent {
		return r
	}
	if state := activities.State(r.Facts[record.FactState]); rank(state) > 0 {
		r.state = state
	}
	r.dueAt = r.date(record.FactDueAt)
	r.stragglers = decodeSightings(r.Facts[record.FactStragglers])
	r.sightings = decodeSightings(r.Facts[record.FactSightings])
	r.converged = decodeNames(r.Facts[record.FactConverged])
	return r
}

// text returns what both dialects can store: PostgreSQL refuses invalid UTF-8 and NUL.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func (r reading) date(fact string) int64 {
	at, err := time.Parse(time.RFC3339Nano, r.Facts[fact])
	if err != nil {
		return 0
	}
	return micros(at)
}

// projectCredential keeps the public description of a certificate that the entry mentions.
func projectCredential(ctx context.Context, tx *Tx, r reading) error {
	fingerprint := r.Facts[record.FactFingerprint]
	serial, algorithm := r.Facts[record.FactSerial], r.Facts[record.FactKeyAlgorithm]
	if fingerprint == "" || (serial == "" && algorithm == "" && r.notBefore == 0 && r.notAfter == 0) {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO credentials (target, fingerprint, serial, not_before, not_after, key_algorithm) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (target, fingerprint) DO UPDATE SET
			serial = CASE WHEN excluded.serial <> '' THEN excluded.serial ELSE credentials.serial END,
			not_before = COALESCE(excluded.not_before, credentials.not_before),
			not_after = COALESCE(excluded.not_after, credentials.not_after),
			key_algorithm = CASE WHEN excluded.key_algorithm <> '' THEN excluded.key_algorithm ELSE credentials.key_algorithm END`,
		r.Target, fingerprint, serial, orNull(r.notBefore), orNull(r.notAfter), algorithm)
	return err
}

// projectLost notes a certificate that was issued and never received.
func projectLost(ctx context.Context, tx *Tx, r reading) error {
	serial := r.Facts[record.FactIssuedNotReceived]
	if serial == "" || r.Phase == record.Intent {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO issued_not_received (target, rotation, serial, at) VALUES (?, ?, ?, ?)
		ON CONFLICT (target, rotation, serial) DO UPDATE SET at = excluded.at WHERE excluded.at < issued_not_received.at`, r.Target, string(r.Rotation), serial, r.at)
	return err
}

// targetRow is the part of a target's row that entries change.
type targetRow struct {
	fingerprint                 string
	fingerprintEpoch            int64
	fingerprintAt               int64
	lookedAt                    int64
	dueAt, dueEpoch, dueSetAt   int64
	heldUntil, heldAt, failures int64
	heldBy, holdReason          string
	lastRotation                string
	lastEpoch                   int64
	lastState                   string
}

// projectTarget brings the target's row up to date with an entry and, if it names one, with its rotation.
func projectTarget(ctx context.Context, tx *Tx, r reading, rotation *rotationRow) error {
	before, err := loadTargetRow(ctx, tx, r.Target)
	known := !errors.Is(err, sql.ErrNoRows)
	if err != nil && known {
		return err
	}
	after := before
	after.merge(r, rotation)
	if known && after == before {
		return nil
	}
	if !known {
		// Not in the configuration (any more, or not yet): kept for its history, never due.
		_, err := tx.Exec(ctx, `INSERT INTO targets (name, declared) VALUES (?, ?)`, r.Target, false)
		if err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `UPDATE targets SET fingerprint = ?, fingerprint_epoch = ?, fingerprint_at = ?, looked_at = ?, due_at = ?, due_epoch = ?, due_set_at = ?,
			held_until = ?, held_at = ?, held_by = ?, hold_reason = ?, failures = ?, last_rotation = ?, last_epoch = ?, last_state = ?,
			updated_at = CASE WHEN updated_at > ? THEN updated_at ELSE ? END WHERE name = ?`,
		after.fingerprint, after.fingerprintEpoch, after.fingerprintAt, after.lookedAt, orNull(after.dueAt), after.dueEpoch, after.dueSetAt,
		orNull(after.heldUntil), after.heldAt, after.heldBy, after.holdReason, after.failures, after.lastRotation, after.lastEpoch, after.lastState,
		r.at, r.at, r.Target)
	return err
}

func loadTargetRow(ctx context.Context, q Querier, name string) (t targetRow, err error) {
	err = q.QueryRow(ctx, `SELECT fingerprint, fingerprint_epoch, fingerprint_at, looked_at, COALESCE(due_at, 0), due_epoch, due_set_at,
			COALESCE(held_until, 0), held_at, held_by, hold_reason, failures, last_rotation, last_epoch, last_state FROM targets WHERE name = ?`, name).
		Scan(&t.fingerprint, &t.fingerprintEpoch, &t.fingerprintAt, &t.lookedAt, &t.dueAt, &t.dueEpoch, &t.dueSetAt,
			&t.heldUntil, &t.heldAt, &t.heldBy, &t.holdReason, &t.failures, &t.lastRotation, &t.lastEpoch, &t.lastState)
	return t, err
}

func (t *targetRow) merge(r reading, rotation *rotationRow) {
	if rotation == nil && r.Phase != record.Intent {
		t.sees(r.Facts[record.FactFingerprint], r.epoch, r.at)
		t.lookedAt = max(t.lookedAt, r.at)
	}
	if r.Phase != record.Intent {
		t.sees(r.Facts[record.FactCurrent], r.epoch, r.at)
	}
	if r.dueAt != 0 && newer(r.epoch, r.at, t.dueEpoch, t.dueSetAt) {
		t.dueAt, t.dueEpoch, t.dueSetAt = r.dueAt, max(r.epoch, t.dueEpoch), r.at
	}
	if rotation == nil {
		return
	}
	t.sees(rotation.left())
	if rotation.epoch >= t.lastEpoch {
		t.lastRotation, t.lastEpoch, t.lastState = rotation.rotation, rotation.epoch, rotation.state
	}
	if proven(activities.State(rotation.state)) && rotation.stateAt >= t.heldAt {
		t.heldUntil, t.heldAt, t.heldBy, t.holdReason, t.failures = 0, 0, "", "", 0
	}
}

// sees takes over what was seen or left on the target, unless something newer is known.
func (t *targetRow) sees(fingerprint string, epoch, at int64) {
	if fingerprint != "" && newer(epoch, at, t.fingerprintEpoch, t.fingerprintAt) {
		t.fingerprint, t.fingerprintEpoch, t.fingerprintAt = fingerprint, max(epoch, t.fingerprintEpoch), at
	}
}

// newer reports whether a claim of the given epoch and time stands against the one that is known. The
// epoch decides, because it was allocated; clocks of several zones only order claims of one epoch. A
// claim without an epoch (an observation) is ordered by time alone.
func newer(epoch, at, knownEpoch, knownAt int64) bool {
	if epoch != 0 && epoch != knownEpoch {
		return epoch > knownEpoch
	}
	return at >= knownAt
}

// proven reports whether every consumer was proven to use the candidate.
func proven(s activities.State) bool {
	return s == activities.Converged || s == activities.Retired || s == activities.ProvenDead
}
