package schedules

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Standing is how a declared schedule does.
type Standing struct {
	Schedule    string    // id
	LastSuccess time.Time // zero: never
	Deadline    time.Time // by when the next success is owed
	Late        bool      // the deadline has passed
	Paused      bool      // by hand, or by a policy that castellan never sets
	Deleted     bool
	Edited      bool
	Note        string // why it was paused

	MissedCatchUp  int
	SkippedOverlap int
}

// Alarms lists what is wrong, as sentences; empty: nothing is.
func (s Standing) Alarms() []string {
	var alarms []string
	if s.Deleted {
		alarms = append(alarms, "does not exist in the engine; castellan schedules apply makes it")
	}
	if s.Paused {
		alarm := "is paused"
		if s.Note != "" {
			alarm += ": " + s.Note
		}
		alarms = append(alarms, alarm)
	}
	if s.Edited {
		alarms = append(alarms, "was edited by hand; castellan schedules diff shows what")
	}
	if s.Late && s.LastSuccess.IsZero() {
		alarms = append(alarms, "has never succeeded")
	} else if s.Late {
		alarms = append(alarms, "has not succeeded since "+s.LastSuccess.UTC().Format(time.RFC3339))
	}
	return alarms
}

// judge compares what is declared with what the engine has and what the work reported. A schedule that
// never succeeded is given its time from the moment at which it was made, or from begun, when the
// watchdog began, if it is not there.
func judge(declared []Schedule, actual []Actual, success map[string]time.Time, begun, now time.Time) []Standing {
	existing := map[string]Actual{}
	for _, a := range actual {
		existing[a.ID] = a
	}
	var standings []Standing
	for _, schedule := range declared {
		found, exists := existing[schedule.ID()]
		standing := Standing{
			Schedule: schedule.ID(), LastSuccess: success[schedule.ID()], Deleted: !exists,
			Paused: found.Paused, Note: found.Note, Edited: exists && found.Applied != found.shape.digest(),
			MissedCatchUp: found.MissedCatchUp, SkippedOverlap: found.SkippedOverlap,
		}
		since := standing.LastSuccess
		if since.IsZero() {
			since = found.Created
		}
		if since.IsZero() {
			since = begun
		}
		standing.Deadline = since.Add(schedule.SucceedWithin)
		standing.Late = now.After(standing.Deadline)
		standings = append(standings, standing)
	}
	return standings
}

// Watchdog alarms when a declared schedule has not succeeded in time, or was paused, edited or deleted by
// hand. It runs beside the engine, in `castellan serve`: a schedule cannot watch over schedules.
//
// Alarms are log records and metrics. The watchdog's own silence shows in the metrics too: the time of
// its last complete look stands still.
type Watchdog struct {
	declared  []Schedule
	observe   func(context.Context, []Schedule) ([]Actual, error)
	successes Successes
	log       *slog.Logger
	now       func() time.Time
	begun     time.Time

	mu        sync.Mutex
	standings []Standing
	looked    time.Time // end of the last complete look
	failures  int       // looks that could not be completed
	raised    map[string]bool
}

// WatchdogParts are what a watchdog needs.
type WatchdogParts struct {
	Declared   []Schedule
	Reconciler Reconciler // must have Successes
	Log        *slog.Logger
	Now        func() time.Time
}

// NewWatchdog returns a watchdog. It does nothing until Run or Look.
func NewWatchdog(parts WatchdogParts) *Watchdog {
	return &Watchdog{
		declared: parts.Declared, observe: parts.Reconciler.Observe, successes: parts.Reconciler.Successes,
		log: parts.Log, now: parts.Now, begun: parts.Now(), raised: map[string]bool{},
	}
}

// Run looks at once and then at every tick until the context ends. A look that fails is logged and
// counted, and the next one is tried as planned: the engine may be away for a while.
func (w *Watchdog) Run(ctx context.Context, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, max(every, 10*time.Second))
		err := w.Look(look)
		cancel()
		if err != nil && ctx.Err() == nil {
			w.log.Error("schedule watchdog cannot look", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Look judges every declared schedule once, logs what began or ceased to be wrong, and keeps the result
// for the metrics. What the work reported is judged even if the engine cannot be reached.
func (w *Watchdog) Look(ctx context.Context) error {
	success, err := w.successes.LastSuccess(ctx)
	if err != nil {
		w.failed()
		return fmt.Errorf("read last successes: %w", err)
	}
	actual, err := w.observe(ctx, w.declared)
	if err != nil {
		w.failed()
		w.keep(w.lateOnly(success), time.Time{})
		return err
	}
	w.keep(judge(w.declared, actual, success, w.begun, w.now()), w.now())
	return nil
}

// lateOnly judges by the reports alone: what the engine has is taken to be as it was seen last.
func (w *Watchdog) lateOnly(success map[string]time.Time) []Standing {
	var standings []Standing
	last := map[string]Standing{}
	for _, standing := range w.Standings() {
		last[standing.Schedule] = standing
	}
	for _, standing := range judge(w.declared, nil, success, w.begun, w.now()) {
		seen := last[standing.Schedule]
		standing.Deleted, standing.Paused, standing.Edited, standing.Note = seen.Deleted, seen.Paused, seen.Edited, seen.Note
		standing.MissedCatchUp, standing.SkippedOverlap = seen.MissedCatchUp, seen.SkippedOverlap
		standings = append(standings, standing)
	}
	return standings
}

// Standings returns the result of the last look.
func (w *Watchdog) Standings() []Standing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Standing(nil), w.standings...)
}

// failed counts a look that could not be completed.
func (w *Watchdog) failed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures++
}

// keep stores a result and logs what changed.
func (w *Watchdog) keep(standings []Standing, looked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.standings = standings
	if !looked.IsZero() {
		w.looked = looked
	}
	current := map[string]bool{}
	for _, standing := range standings {
		for _, alarm := range standing.Alarms() {
			key := standing.Schedule + " " + alarm
			current[key] = true
			if !w.raised[key] {
				w.log.Error("schedule alarm", "schedule", standing.Schedule, "alarm", alarm)
			}
		}
	}
	for key := range w.raised {
		if !current[key] {
			w.log.Info("schedule alarm is over", "alarm", key)
		}
	}
	w.raised = current
}
