package schedules

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The watchdog is a collector: register it with the registry that the process serves. Ages are computed
// when they are asked for, so that they grow even if the watchdog itself has stopped.
var _ prometheus.Collector = (*Watchdog)(nil)

// metrics describes what the watchdog tells.
type metrics struct {
	lastSuccess, sinceSuccess, lateness, paused, deleted, edited, missed, skipped *prometheus.Desc
	heartbeat, failures                                                           *prometheus.Desc
}

// descriptions returns the metrics' names and help texts.
func descriptions() metrics {
	per := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("castellan_schedule_"+name, help, []string{"schedule"}, nil)
	}
	own := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("castellan_schedule_watchdog_"+name, help, nil, nil)
	}
	return metrics{
		lastSuccess:  per("last_success_timestamp_seconds", "When the schedule's work last succeeded; absent if never."),
		sinceSuccess: per("since_success_seconds", "How long ago the schedule's work last succeeded; absent if never."),
		lateness:     per("lateness_seconds", "How long a success has been overdue; 0 while it is in time."),
		paused:       per("paused", "1 if the schedule is paused."),
		deleted:      per("deleted", "1 if the schedule does not exist in the engine."),
		edited:       per("edited", "1 if the schedule was edited by hand."),
		missed:       per("missed_catchup", "Starts that came too late to be made up for, as the engine counts them."),
		skipped:      per("skipped_overlap", "Starts that fell into a run, as the engine counts them."),
		heartbeat:    own("heartbeat_timestamp_seconds", "When the watchdog last looked at every schedule; alarm when it stands still."),
		failures:     own("failed_looks_total", "Looks that could not be completed."),
	}
}

// Describe implements prometheus.Collector.
func (w *Watchdog) Describe(descs chan<- *prometheus.Desc) {
	m := descriptions()
	for _, desc := range []*prometheus.Desc{
		m.lastSuccess, m.sinceSuccess, m.lateness, m.paused, m.deleted, m.edited, m.missed, m.skipped, m.heartbeat, m.failures,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (w *Watchdog) Collect(out chan<- prometheus.Metric) {
	w.mu.Lock()
	standings, looked, failures := w.standings, w.looked, w.failures
	w.mu.Unlock()
	m, now := descriptions(), w.now()
	for _, s := range standings {
		gauge := func(desc *prometheus.Desc, value float64) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, s.Schedule)
		}
		if !s.LastSuccess.IsZero() {
			gauge(m.lastSuccess, seconds(s.LastSuccess))
			gauge(m.sinceSuccess, now.Sub(s.LastSuccess).Seconds())
		}
		gauge(m.lateness, max(now.Sub(s.Deadline).Seconds(), 0))
		gauge(m.paused, truth(s.Paused))
		gauge(m.deleted, truth(s.Deleted))
		gauge(m.edited, truth(s.Edited))
		gauge(m.missed, float64(s.MissedCatchUp))
		gauge(m.skipped, float64(s.SkippedOverlap))
	}
	heartbeat := 0.0 // never: far in the past, so that an alarm on its age fires
	if !looked.IsZero() {
		heartbeat = seconds(looked)
	}
	out <- prometheus.MustNewConstMetric(m.heartbeat, prometheus.GaugeValue, heartbeat)
	out <- prometheus.MustNewConstMetric(m.failures, prometheus.CounterValue, float64(failures))
}

// seconds returns a moment as Prometheus writes it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// truth returns 1 for true.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
