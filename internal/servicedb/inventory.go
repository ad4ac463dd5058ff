package servicedb

import (
	"context"
	"time"

	"castellan.dev/activities"
)

// DeclaredTarget is a target as the configuration declares it.
type DeclaredTarget struct {
	Name           string
	Kind           string
	Owner          string
	Policy         string
	ExclusionGroup string
	Observed       bool // adopted: looked at, never changed
	// Spec is a digest of everything in the configuration that the due date depends on, such as the
	// policy's contents. When it changes, the date is not to be trusted any more.
	Spec string
}

// InventoryChange says what an inventory update did, by target.
type InventoryChange struct {
	Added   []string
	Updated []string
	Removed []string
}

// ApplyInventory makes the inventory what the configuration declares. An added target, and one whose
// kind, policy, spec or adoption changed, becomes due at once, so that the next sweep looks at it. A target that is not
// declared any more is marked as removed and kept for its history; it is never due.
func (db *DB) ApplyInventory(ctx context.Context, declared []DeclaredTarget, now time.Time) (InventoryChange, error) {
	var change InventoryChange
	err := db.Tx(ctx, func(tx *Tx) error {
		change = InventoryChange{}
		known, err := declaredRows(ctx, tx)
		if err != nil {
			return err
		}
		for _, want := range declared {
			have, exists := known[want.Name]
			delete(known, want.Name)
			switch {
			case !exists || !have.declared:
				change.Added = append(change.Added, want.Name)
			case have.DeclaredTarget != want:
				change.Updated = append(change.Updated, want.Name)
			default:
				continue
			}
			again := !exists || !have.declared || have.Kind != want.Kind || have.Policy != want.Policy || have.Spec != want.Spec || have.Observed != want.Observed
			if err := declare(ctx, tx, want, again, micros(now)); err != nil {
				return err
			}
		}
		for name, have := range known {
			if !have.declared {
				continue
			}
			change.Removed = append(change.Removed, name)
			if _, err := tx.Exec(ctx, `UPDATE targets SET declared = ?, removed_at = ?, updated_at = ? WHERE name = ?`, false, micros(now), micros(now), name); err != nil {
				return err
			}
		}
		return nil
	})
	return change, failed("apply inventory", err)
}

type declaredRow struct {
	DeclaredTarget
	declared bool
}

func declaredRows(ctx context.Context, q Querier) (map[string]declaredRow, error) {
	list, err := collect(ctx, q, func(scan scanner) (r declaredRow, err error) {
		err = scan(&r.Name, &r.Kind, &r.Owner, &r.Policy, &r.ExclusionGroup, &r.Observed, &r.Spec, &r.declared)
		return r, err
	}, `SELECT name, kind, owner, policy, exclusion_group, observed, spec, declared FROM targets`)
	known := make(map[string]declaredRow, len(list))
	for _, row := range list {
		known[row.Name] = row
	}
	return known, err
}

func declare(ctx context.Context, tx *Tx, t DeclaredTarget, again bool, now int64) error {
	due := orNull(0)
	if again {
		due = &now
	}
	_, err := tx.Exec(ctx, `INSERT INTO targets (name, kind, owner, policy, exclusion_group, observed, spec, declared, due_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, owner = excluded.owner, policy = excluded.policy,
			exclusion_group = excluded.exclusion_group, observed = excluded.observed, spec = excluded.spec, declared = excluded.declared, removed_at = NULL,
			looked_at = CASE WHEN excluded.due_at IS NULL THEN targets.looked_at ELSE 0 END,
			due_at = CASE WHEN targets.due_at < excluded.due_at THEN targets.due_at ELSE COALESCE(excluded.due_at, targets.due_at) END,
			updated_at = excluded.updated_at`,
		t.Name, t.Kind, t.Owner, t.Policy, t.ExclusionGroup, t.Observed, t.Spec, true, due, now)
	return err
}

// Hold is a pause of one failing target, so that it does not keep the sweep busy.
type Hold struct {
	Until  time.Time
	Reason string
	// Run is the run that failed. Holding again for the same run moves the hold and counts no failure.
	Run string
}

// Hold keeps a target out of the sweep until a moment and counts the failure. It returns how many
// failures in a row there are now, for the next back-off. The hold ends by itself when a rotation
// converges, or by Release.
func (db *DB) Hold(ctx context.Context, target string, hold Hold, now time.Time) (failures int, err error) {
	act := "hold target " + quoted(target)
	err = db.Tx(ctx, func(tx *Tx) error {
		changed, err := tx.Exec(ctx, `UPDATE targets SET held_until = ?, held_at = ?, hold_reason = ?,
				failures = failures + CASE WHEN held_by = ? AND held_by <> '' THEN 0 ELSE 1 END, held_by = ?, updated_at = ? WHERE name = ?`,
			orNull(micros(hold.Until)), micros(now), hold.Reason, hold.Run, hold.Run, micros(now), target)
		if err := oneRow(changed, err); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT failures FROM targets WHERE name = ?`, target).Scan(&failures)
	})
	return failures, failed(act, err)
}

// Release ends a target's hold and forgets its failures.
func (db *DB) Release(ctx context.Context, target string, now time.Time) error {
	return db.updateTarget(ctx, "release target "+quoted(target), `UPDATE targets SET held_until = NULL, held_at = 0, held_by = '', hold_reason = '',
		failures = 0, updated_at = ? WHERE name = ?`, micros(now), target)
}

// SetPaused takes a target out of the sweep, or back into it.
func (db *DB) SetPaused(ctx context.Context, target string, paused bool, now time.Time) error {
	return db.updateTarget(ctx, "pause target "+quoted(target), `UPDATE targets SET paused = ?, updated_at = ? WHERE name = ?`, paused, micros(now), target)
}

func (db *DB) updateTarget(ctx context.Context, act, statement string, args ...any) error {
	return failed(act, db.Tx(ctx, func(tx *Tx) error {
		changed, err := tx.Exec(ctx, statement, args...)
		return oneRow(changed, err)
	}))
}

// oneRow turns a statement that found no row into NotFound.
func oneRow(changed int64, err error) error {
	if err == nil && changed == 0 {
		return activities.Errorf(activities.NotFound, "not in the inventory")
	}
	return err
}
