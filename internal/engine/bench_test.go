package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
)

// BenchmarkStartToActivity measures the plain path (start a workflow, reach its first activity on
// another queue) on the settings that were considered. Run it with -benchtime=300x.
func BenchmarkStartToActivity(b *testing.B) {
	variants := []struct {
		name   string
		change func(*Config)
	}{
		{"untuned", func(c *Config) { c.Untuned = true }},
		{"tuned", func(*Config) {}},
		{"tuned but sync=full", func(c *Config) { c.synchronous = "full" }},
		{"tuned but 4 connections", func(c *Config) { c.connections = 4 }},
		{"tuned but 4 shards", func(c *Config) { c.shards = 4 }},
	}
	for _, variant := range variants {
		for _, clients := range []int{1, 20} {
			b.Run(fmt.Sprintf("%s/%d clients", variant.name, clients), func(b *testing.B) {
				measure(b, variant.change, clients)
			})
		}
	}
}

func measure(b *testing.B, change func(*Config), clients int) {
	busy := &counter{contains: "locked"}
	h := openHouse(b, b.TempDir(), change, func(c *Config) { c.Logger = slog.New(busy) })
	c := h.dial(b, identity.Dev)
	begun := make(map[string]chan time.Time)
	var mu sync.Mutex
	arrive := func(ctx context.Context, id string) error {
		mu.Lock()
		defer mu.Unlock()
		begun[id] <- time.Now()
		return nil
	}
	control := worker.New(c, activities.Control.Queue(""), worker.Options{})
	control.RegisterWorkflowWithOptions(func(ctx workflow.Context, id string) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: activities.Observe.Queue(""), StartToCloseTimeout: time.Minute})
		return workflow.ExecuteActivity(ctx, "bench.arrive", id).Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "bench.run"})
	observe := worker.New(c, activities.Observe.Queue(""), worker.Options{DisableWorkflowWorker: true})
	observe.RegisterActivityWithOptions(arrive, activity.RegisterOptions{Name: "bench.arrive"})
	for _, w := range []worker.Worker{control, observe} {
		if err := w.Start(); err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
	}
	latencies := make([]time.Duration, 0, b.N)
	one := func(id string) {
		arrived := make(chan time.Time, 8)
		mu.Lock()
		begun[id] = arrived
		mu.Unlock()
		start := time.Now()
		run, err := c.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{ID: id, TaskQueue: activities.Control.Queue("")}, "bench.run", id)
		if err == nil {
			err = run.Get(context.Background(), nil)
		}
		if err != nil {
			b.Error(err)
			return
		}
		mu.Lock()
		latencies = append(latencies, (<-arrived).Sub(start))
		mu.Unlock()
	}
	for i := range 10 { // warm up
		one(fmt.Sprintf("warm/%d", i))
	}
	latencies = latencies[:0]
	busy.count.Store(0)
	b.ResetTimer()
	var next atomic.Int64
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				one(fmt.Sprintf("run/%d", i))
			}
		})
	}
	group.Wait()
	b.StopTimer()
	slices.Sort(latencies)
	at := func(q float64) float64 {
		return float64(latencies[int(q*float64(len(latencies)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "p50-ms")
	b.ReportMetric(at(0.99), "p99-ms")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "workflows/s")
	b.ReportMetric(float64(busy.count.Load()), "locked-errors")
	b.ReportMetric(0, "ns/op")
}

// counter counts log lines that mention something.
type counter struct {
	contains string
	count    atomic.Int64
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }
func (c *counter) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(attr slog.Attr) bool {
		if strings.Contains(attr.Value.String(), c.contains) {
			c.count.Add(1)
		}
		return true
	})
	return nil
}
func (c *counter) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *counter) WithGroup(string) slog.Handler      { return c }
