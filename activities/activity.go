package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Zone is a set of credentials that may live in one worker process, and so a task queue.
type Zone string

const (
	// Control runs workflows and holds no credential for any target.
	Control Zone = "control"
	// Privileged holds what changes targets: issuers, stores, deliveries.
	Privileged Zone = "privileged"
	// Observe holds read-only access to targets and consumers.
	Observe Zone = "observe"
	// Record holds the service database; it runs inside `castellan serve`.
	Record Zone = "record"
)

// Zones lists every zone, in the order in which documentation and flags show them.
func Zones() []Zone { return []Zone{Control, Privileged, Observe, Record} }

// Queue returns the zone's task queue. A host narrows Privileged to the one machine that holds a
// host-local target (files, pid files, units); every other zone ignores it.
func (z Zone) Queue(host string) string {
	if z == Privileged && host != "" {
		return "castellan." + string(z) + "/" + host
	}
	return "castellan." + string(z)
}

// Timing is how long an activity may take and how it is tried again.
type Timing struct {
	StartToClose    time.Duration // one attempt
	ScheduleToClose time.Duration // all attempts together
	Heartbeat       time.Duration // how soon a worker's death is noticed; beats cost nothing while an attempt is short
	FirstRetry      time.Duration
	MaxRetry        time.Duration
}

// noticed is how long the death of a worker goes unnoticed. Without heartbeats a step whose worker was
// killed would wait for its whole start-to-close timeout.
const noticed = 10 * time.Second

var (
	// Short suits one call or two to a system nearby.
	Short = Timing{StartToClose: 30 * time.Second, ScheduleToClose: 30 * time.Minute, Heartbeat: noticed, FirstRetry: 500 * time.Millisecond, MaxRetry: 20 * time.Second}
	// Patient suits an effect at a system that may be away for a day.
	Patient = Timing{StartToClose: time.Minute, ScheduleToClose: 24 * time.Hour, Heartbeat: noticed, FirstRetry: 500 * time.Millisecond, MaxRetry: time.Minute}
	// Unending suits a step that must happen however long it takes, such as retiring a credential.
	Unending = Timing{StartToClose: time.Minute, ScheduleToClose: 365 * 24 * time.Hour, Heartbeat: noticed, FirstRetry: 500 * time.Millisecond, MaxRetry: 5 * time.Minute}
	// Watching suits a poll of consumers inside one attempt, with heartbeats.
	Watching = Timing{StartToClose: 10 * time.Minute, ScheduleToClose: 24 * time.Hour, Heartbeat: noticed, FirstRetry: 500 * time.Millisecond, MaxRetry: 30 * time.Second}
)

// Activity is the typed handle of one activity: the only way a workflow calls it and the only way a
// worker registers it.
type Activity[Request, Result any] struct {
	Name   string
	Zone   Zone
	Timing Timing
}

// Define declares an activity. Names are dotted, lower case and never change once released.
func Define[Request, Result any](name string, zone Zone, timing Timing) Activity[Request, Result] {
	return Activity[Request, Result]{Name: name, Zone: zone, Timing: timing}
}

// Run schedules the activity on its zone's queue and waits for it. The summary is what the Web UI
// shows beside the event; it must not be secret.
func (a Activity[Request, Result]) Run(ctx workflow.Context, host, summary string, request Request) (Result, error) {
	var result Result
	err := a.Start(ctx, host, summary, request).Get(ctx, &result)
	return result, err
}

// Start schedules the activity and returns its future, for workflows that wait for more than one thing.
func (a Activity[Request, Result]) Start(ctx workflow.Context, host, summary string, request Request) workflow.Future {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:              a.Zone.Queue(host),
		StartToCloseTimeout:    a.Timing.StartToClose,
		ScheduleToCloseTimeout: a.Timing.ScheduleToClose,
		HeartbeatTimeout:       a.Timing.Heartbeat,
		Summary:                summary,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    a.Timing.FirstRetry,
			BackoffCoefficient: 2,
			MaximumInterval:    a.Timing.MaxRetry,
		},
	})
	return workflow.ExecuteActivity(ctx, a.Name, request)
}

// Register serves the activity with fn. Errors are classified here, once, for every activity.
func (a Activity[Request, Result]) Register(registry worker.ActivityRegistry, fn func(context.Context, Request) (Result, error)) {
	registry.RegisterActivityWithOptions(func(ctx context.Context, request Request) (Result, error) {
		defer beat(ctx, a.Timing.Heartbeat)()
		result, err := fn(ctx, request)
		return result, toTemporal(err)
	}, activity.RegisterOptions{Name: a.Name})
}

// beat heartbeats in the background until the returned function is called. The first beat comes after a
// third of the timeout, so that the usual attempt, which is over by then, costs no action for it.
func beat(ctx context.Context, timeout time.Duration) (stop func()) {
	if timeout == 0 {
		return func() {}
	}
	ended := make(chan struct{})
	go func() {
		ticker := time.NewTicker(timeout / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ctx.Done():
				return
			case <-ticker.C:
				activity.RecordHeartbeat(ctx)
			}
		}
	}()
	return func() { close(ended) }
}
