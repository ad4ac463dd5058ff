package servicedb

import (
	"context"
	"strings"
	"time"

	"castellan.dev/activities"
)

// Credential is the public description of a certificate. Only Fingerprint is always known.
type Credential struct {
	Fingerprint  string
	Serial       string
	NotBefore    time.Time
	NotAfter     time.Time
	KeyAlgorithm string
}

// Target is one row of the inventory.
type Target struct {
	Name           string
	Kind           string
	Owner          string
	Policy         string
	ExclusionGroup string
	Declared       bool      // in the configuration now
	RemovedAt      time.Time // when it left the configuration
	Observed       bool
	Paused         bool

	Current Credential // what consumers can see; the zero value when nobody has looked yet
	DueAt   time.Time  // zero: not known yet

	HeldUntil  time.Time
	HoldReason string
	Failures   int

	LastRotation activities.RotationID
	LastEpoch    activities.Epoch
	LastState    activities.State
	UpdatedAt    time.Time
}

// TargetFilter narrows a list of targets; the zero value lists all that are declared.
type TargetFilter struct {
	Kind           string
	Owner          string
	Policy         string
	ExclusionGroup string
	State          activities.State // of the last rotation
	ExpiresBefore  time.Time
	DueBefore      time.Time
	Removed        bool // also those that left the configuration
}

const selectTarget = `SELECT t.name, t.kind, t.owner, t.policy, t.exclusion_group, t.declared, COALESCE(t.removed_at, 0), t.observed, t.paused,
	t.fingerprint, COALESCE(c.serial, ''), COALESCE(c.not_before, 0), COALESCE(c.not_after, 0), COALESCE(c.key_algorithm, ''),
	COALESCE(t.due_at, 0), COALESCE(t.held_until, 0), t.hold_reason, t.failures, t.last_rotation, t.last_epoch, t.last_state, t.updated_at
	FROM targets t LEFT JOIN credentials c ON c.target = t.name AND c.fingerprint = t.fingerprint`

func scanTarget(scan scanner) (t Target, err error) {
	var removed, notBefore, notAfter, due, held, updated, epoch int64
	err = scan(&t.Name, &t.Kind, &t.Owner, &t.Policy, &t.ExclusionGroup, &t.Declared, &removed, &t.Observed, &t.Paused,
		&t.Current.Fingerprint, &t.Current.Serial, &notBefore, &notAfter, &t.Current.KeyAlgorithm,
		&due, &held, &t.HoldReason, &t.Failures, &t.LastRotation, &epoch, &t.LastState, &updated)
	t.RemovedAt, t.Current.NotBefore, t.Current.NotAfter = moment(removed), moment(notBefore), moment(notAfter)
	t.DueAt, t.HeldUntil, t.UpdatedAt, t.LastEpoch = moment(due), moment(held), moment(updated), activities.Epoch(epoch)
	return t, err
}

// Target returns one target, declared or not. It is NotFound when nobody ever spoke of it.
func (db *DB) Target(ctx context.Context, name string) (Target, error) {
	t, err := scanTarget(db.QueryRow(ctx, selectTarget+` WHERE t.name = ?`, name).Scan)
	return t, failed("read target "+quoted(name), err)
}

// Targets lists targets by name, and returns the cursor of the next page (empty: no more).
func (db *DB) Targets(ctx context.Context, filter TargetFilter, page Page) ([]Target, string, error) {
	var where conditions
	if !filter.Removed {
		where.add("t.declared")
	}
	where.equal("t.kind", filter.Kind)
	where.equal("t.owner", filter.Owner)
	where.equal("t.policy", filter.Policy)
	where.equal("t.exclusion_group", filter.ExclusionGroup)
	where.equal("t.last_state", string(filter.State))
	if !filter.ExpiresBefore.IsZero() {
		where.add("c.not_after < ?", micros(filter.ExpiresBefore))
	}
	if !filter.DueBefore.IsZero() {
		where.add("t.due_at < ?", micros(filter.DueBefore))
	}
	if page.Cursor != "" {
		where.add("t.name > ?", page.Cursor)
	}
	limit := page.limit()
	list, err := collect(ctx, db, scanTarget, selectTarget+where.where()+` ORDER BY t.name LIMIT ?`, append(where.args, limit+1)...)
	if err != nil {
		return nil, "", failed("list targets", err)
	}
	list, next := more(list, limit, func(t Target) string { return t.Name })
	return list, next, nil
}

// Due is a target that a sweep must look at.
type Due struct {
	Target         string
	DueAt          time.Time
	Failures       int
	Observed       bool
	ExclusionGroup string
}

// selectDue walks the index of what is due: its cost grows with what it returns, not with what exists.
const selectDue = `SELECT name, COALESCE(due_at, 0), next_at, failures, observed, exclusion_group FROM targets
	WHERE next_at IS NOT NULL AND next_at <= ? AND (next_at, name) > (?, ?) ORDER BY next_at, name LIMIT ?`

// Due lists the targets that are due and neither held, paused nor quarantined, the longest waiting first,
// and returns the cursor of the next page (empty: no more). An observed target, which nobody will
// rotate, is listed a day after it was last looked at.
func (db *DB) Due(ctx context.Context, now time.Time, limit int, after string) ([]Due, string, error) {
	from, name := int64(-1<<63), ""
	if after != "" {
		var err error
		if from, name, err = splitCursor(after); err != nil {
			return nil, "", failed("list due targets", err)
		}
	}
	type row struct {
		Due
		next int64
	}
	limit = Page{Limit: limit}.limit()
	rows, err := collect(ctx, db, func(scan scanner) (r row, err error) {
		var due int64
		err = scan(&r.Target, &due, &r.next, &r.Failures, &r.Observed, &r.ExclusionGroup)
		r.DueAt = moment(due)
		return r, err
	}, selectDue, micros(now), from, name, limit+1)
	if err != nil {
		return nil, "", failed("list due targets", err)
	}
	rows, next := more(rows, limit, func(r row) string { return cursor(r.next, r.Target) })
	var list []Due
	for _, r := range rows {
		list = append(list, r.Due)
	}
	return list, next, nil
}

// DuePlan returns how the database means to answer [DB.Due], as its EXPLAIN puts it. It must name the
// index targets_next.
func (db *DB) DuePlan(ctx context.Context, now time.Time) (string, error) {
	explain := "EXPLAIN QUERY PLAN "
	if db.Dialect == Postgres {
		explain = "EXPLAIN "
	}
	lines, err := collect(ctx, db, func(scan scanner) (line string, err error) {
		if db.Dialect == Postgres {
			return line, scan(&line)
		}
		var id, parent, unused int64
		return line, scan(&id, &parent, &unused, &line)
	}, explain+selectDue, micros(now), int64(0), "", 100)
	return strings.Join(lines, "\n"), failed("explain due targets", err)
}
