package servicedb

import (
	"context"
	"time"

	"castellan.dev/activities"
)

// Expiry is how long a target's current credential is still valid.
type Expiry struct {
	Target string
	Kind   string
	Left   time.Duration // negative: expired
}

// Metrics is one consistent snapshot of what telemetry shows.
type Metrics struct {
	Targets    int
	Expiries   []Expiry // of declared targets whose certificate is known, by name
	Overdue    int      // declared, neither paused nor observed, and due for longer than the grace
	Held       int
	Paused     int
	Open       int                         // rotations that have not ended
	Outcomes   map[activities.State]int    // rotations that have ended
	Standings  map[activities.Standing]int // consumers' addresses of declared targets
	Unverified int                         // of these, not proven to use the candidate
	Lost       int                         // certificates issued and never received
}

// Metrics reads the snapshot. Grace is how long a target may be due before it counts as overdue.
func (db *DB) Metrics(ctx context.Context, now time.Time, grace time.Duration) (Metrics, error) {
	m := Metrics{}
	err := db.View(ctx, func(q Querier) error {
		if err := m.readTargets(ctx, q, now, grace); err != nil {
			return err
		}
		return m.readCounts(ctx, q)
	})
	return m, failed("read metrics", err)
}

func (m *Metrics) readTargets(ctx context.Context, q Querier, now time.Time, grace time.Duration) (err error) {
	m.Expiries, err = collect(ctx, q, func(scan scanner) (e Expiry, err error) {
		var notAfter int64
		err = scan(&e.Target, &e.Kind, &notAfter)
		e.Left = moment(notAfter).Sub(now)
		return e, err
	}, `SELECT t.name, t.kind, c.not_after FROM targets t JOIN credentials c ON c.target = t.name AND c.fingerprint = t.fingerprint
		WHERE t.declared AND c.not_after IS NOT NULL ORDER BY t.name`)
	if err != nil {
		return err
	}
	return q.QueryRow(ctx, `SELECT COUNT(*),
			COALESCE(SUM(CASE WHEN due_at <= ? AND NOT paused AND NOT observed THEN 1 ELSE 0 END), 0),
			COALESCE(SUM(CASE WHEN held_until > ? THEN 1 ELSE 0 END), 0),
			COALESCE(SUM(CASE WHEN paused THEN 1 ELSE 0 END), 0) FROM targets WHERE declared`, micros(now.Add(-grace)), micros(now)).
		Scan(&m.Targets, &m.Overdue, &m.Held, &m.Paused)
}

func (m *Metrics) readCounts(ctx context.Context, q Querier) (err error) {
	m.Outcomes, err = counts[activities.State](ctx, q, `SELECT state, COUNT(*) FROM rotations WHERE ended_at IS NOT NULL GROUP BY state`)
	if err != nil {
		return err
	}
	m.Standings, err = counts[activities.Standing](ctx, q, `SELECT c.standing, COUNT(*) FROM consumers c JOIN targets t ON t.name = c.target
		WHERE t.declared AND `+toldConsumer+` GROUP BY c.standing`)
	if err != nil {
		return err
	}
	for standing, n := range m.Standings {
		if standing != activities.UsesCandidate {
			m.Unverified += n
		}
	}
	return q.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM rotations WHERE ended_at IS NULL), (SELECT COUNT(*) FROM issued_not_received)`).
		Scan(&m.Open, &m.Lost)
}

// counts reads rows of name and number.
func counts[Name ~string](ctx context.Context, q Querier, query string) (map[Name]int, error) {
	type row struct {
		name Name
		n    int
	}
	rows, err := collect(ctx, q, func(scan scanner) (r row, err error) {
		err = scan(&r.name, &r.n)
		return r, err
	}, query)
	all := make(map[Name]int, len(rows))
	for _, r := range rows {
		all[r.name] = r.n
	}
	return all, err
}
