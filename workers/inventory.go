package workers

import (
	"context"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/internal/servicedb"
)

// inventory is the record zone: what is due, and which schedules succeeded.
type inventory struct {
	database *servicedb.DB
	host     func(target string) (host string, declared bool)
	now      func() time.Time
}

// sweep lists due targets by the index on their due date.
func (i inventory) sweep(ctx context.Context, request activities.SweepRequest) (activities.SweepResult, error) {
	due, cursor, err := i.database.Due(ctx, i.now(), request.Limit, request.Cursor)
	if err != nil {
		return activities.SweepResult{}, err
	}
	result := activities.SweepResult{Cursor: cursor}
	for _, d := range due {
		host, declared := i.host(d.Target)
		if !declared {
			continue // it has just left the configuration
		}
		result.Due = append(result.Due, activities.DueTarget{Target: d.Target, Host: host, Kind: tlscert.Name, DueAt: d.DueAt})
	}
	return result, nil
}

// succeeded notes that a schedule's work was done, for the watchdog.
func (i inventory) succeeded(ctx context.Context, request activities.SuccessRequest) (struct{}, error) {
	return struct{}{}, i.database.Succeeded(ctx, request.Schedule, request.At)
}

// The back-off of a failing target.
const (
	firstHold = time.Minute
	lastHold  = 6 * time.Hour
)

// hold backs a failing target off: twice as long after each failure in a row.
func (i inventory) hold(ctx context.Context, request activities.HoldRequest) (struct{}, error) {
	row, err := i.database.Target(ctx, request.Target)
	if err != nil {
		return struct{}{}, err
	}
	now := i.now()
	pause := lastHold
	if row.Failures < 10 {
		pause = min(firstHold<<row.Failures, lastHold)
	}
	if rest := row.Current.NotAfter.Sub(now); !row.Current.NotAfter.IsZero() && rest > 0 {
		pause = max(min(pause, rest/4), firstHold) // the last try must not come after the end
	}
	_, err = i.database.Hold(ctx, request.Target, servicedb.Hold{Until: now.Add(pause), Reason: request.Reason, Run: request.Run}, now)
	return struct{}{}, err
}
