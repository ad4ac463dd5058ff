package serve

import (
	"context"
	"fmt"
	"strings"
	"time"

	"castellan.dev/internal/api"
	"castellan.dev/internal/servicedb"
	"castellan.dev/schedules"
	"castellan.dev/workflows/rotation"
)

// keeper reconciles the schedules and watches over them.
type keeper struct {
	declared   []schedules.Schedule
	reconciler schedules.Reconciler
	watchdog   *schedules.Watchdog
}

func newKeeper(parts Parts) (*keeper, error) {
	overrides := map[string]schedules.Override{}
	for name, schedule := range parts.Config.Schedules {
		overrides[name] = schedules.Override(schedule)
	}
	declared, err := schedules.Declared(overrides, func(id string) any { return rotation.SweepInput{Schedule: id} })
	if err != nil {
		return nil, err
	}
	reconciler := schedules.Reconciler{
		Engine: parts.Settings.Engine.ScheduleClient(), Converter: parts.Converter, Successes: successes{parts.Database},
	}
	watchdog := schedules.NewWatchdog(schedules.WatchdogParts{Declared: declared, Reconciler: reconciler, Log: parts.Logger, Now: parts.Now})
	return &keeper{declared: declared, reconciler: reconciler, watchdog: watchdog}, nil
}

// Diff compares declared and actual schedules.
func (k *keeper) Diff(ctx context.Context) (api.Schedules, error) {
	plan, err := k.reconciler.Plan(ctx, k.declared, schedules.Options{})
	if err != nil {
		return api.Schedules{}, err
	}
	return k.show(plan)
}

// Apply reconciles. A schedule that a person paused stays paused: the watchdog says so.
func (k *keeper) Apply(ctx context.Context) (api.Schedules, error) {
	plan, err := k.reconciler.Plan(ctx, k.declared, schedules.Options{})
	if err != nil {
		return api.Schedules{}, err
	}
	if err := k.reconciler.Apply(ctx, plan); err != nil {
		return api.Schedules{}, fmt.Errorf("apply schedules: %w", err)
	}
	return k.show(plan)
}

func (k *keeper) show(plan schedules.Plan) (api.Schedules, error) {
	var text strings.Builder
	err := plan.Write(&text)
	return api.Schedules{Plan: plan, Text: text.String()}, err
}

// successes reads when schedules last succeeded from the service database.
type successes struct{ database *servicedb.DB }

// LastSuccess implements schedules.Successes.
func (s successes) LastSuccess(ctx context.Context) (map[string]time.Time, error) {
	rows, err := s.database.Successes(ctx)
	if err != nil {
		return nil, err
	}
	last := map[string]time.Time{}
	for _, row := range rows {
		if !row.LastSuccess.IsZero() {
			last[row.Schedule] = row.LastSuccess
		}
	}
	return last, nil
}

// watchEvery is how often the watchdog looks. Schedules promise a success within minutes.
const watchEvery = 30 * time.Second

// watch runs the watchdog until the context ends. It logs alarms and is a collector of metrics.
func (k *keeper) watch(ctx context.Context) error { return k.watchdog.Run(ctx, watchEvery) }

// Watchdog returns the watchdog over the schedules, whose metrics the caller may serve.
func (s *Service) Watchdog() *schedules.Watchdog { return s.keeper.watchdog }
