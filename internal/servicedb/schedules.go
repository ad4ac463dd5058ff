package servicedb

import (
	"context"
	"time"
)

// Success is when a schedule's work last succeeded and last began; the watchdog compares it with what the
// schedule promises.
type Success struct {
	Schedule    string
	LastSuccess time.Time // zero: never
	LastStarted time.Time // zero: never
}

// Succeeded notes that a schedule's work succeeded. A late report does not replace a newer one.
func (db *DB) Succeeded(ctx context.Context, schedule string, at time.Time) error {
	return db.note(ctx, "note success of schedule "+quoted(schedule), "last_success_at", schedule, at)
}

// Started notes that a schedule's work began. A late report does not replace a newer one.
func (db *DB) Started(ctx context.Context, schedule string, at time.Time) error {
	return db.note(ctx, "note start of schedule "+quoted(schedule), "last_started_at", schedule, at)
}

func (db *DB) note(ctx context.Context, act, column, schedule string, at time.Time) error {
	return failed(act, db.Tx(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule, `+column+`) VALUES (?, ?)
			ON CONFLICT (schedule) DO UPDATE SET `+column+` = excluded.`+column+`
			WHERE schedule_successes.`+column+` IS NULL OR schedule_successes.`+column+` < excluded.`+column, schedule, micros(at))
		return err
	}))
}

// Successes lists what is known of every schedule, by name.
func (db *DB) Successes(ctx context.Context) ([]Success, error) {
	list, err := collect(ctx, db, func(scan scanner) (s Success, err error) {
		var success, started int64
		err = scan(&s.Schedule, &success, &started)
		s.LastSuccess, s.LastStarted = moment(success), moment(started)
		return s, err
	}, `SELECT schedule, COALESCE(last_success_at, 0), COALESCE(last_started_at, 0) FROM schedule_successes ORDER BY schedule`)
	return list, failed("list successes of schedules", err)
}
