package telemetry

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"
)

// Source is what the inventory's metrics are read from; *servicedb.DB is one.
type Source interface {
	Metrics(ctx context.Context, now time.Time, grace time.Duration) (servicedb.Metrics, error)
}

// overdueGrace is how long a target may be due before it counts as overdue: a sweep and its jitter fit
// into it.
const overdueGrace = 5 * time.Minute

// collectPatience bounds one collection.
const collectPatience = 5 * time.Second

// inventory tells what the service database knows, at the moment at which it is asked.
type inventory struct {
	source Source
	now    func() time.Time
	log    *slog.Logger

	up, expiry, targets, overdue, held, paused     *prometheus.Desc
	rotations, open, consumers, unverified, orphan *prometheus.Desc
}

// Inventory returns the collector of certificates, rotations and consumers.
func Inventory(source Source, now func() time.Time, log *slog.Logger) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("castellan_"+name, help, labels, nil)
	}
	return &inventory{
		source: source, now: now, log: log,
		up:         desc("inventory_up", "1 if the service database could be read for this collection."),
		expiry:     desc("certificate_expiry_seconds", "Seconds until the certificate in use expires; negative once it has.", "target"),
		targets:    desc("targets", "Targets in the configuration."),
		overdue:    desc("targets_overdue", "Targets that have been due for more than five minutes and are neither paused nor only observed."),
		held:       desc("targets_held", "Targets that are held back after a failure."),
		paused:     desc("targets_paused", "Targets that a person paused."),
		rotations:  desc("rotations_ended", "Rotations that have ended, by outcome; a quarantine that a person resolves leaves it.", "outcome"),
		open:       desc("rotations_open", "Rotations under way."),
		consumers:  desc("consumers", "Consumers' addresses by what they were last seen to use.", "standing"),
		unverified: desc("consumers_unverified", "Consumers' addresses that are not proven to use the candidate."),
		orphan:     desc("certificates_issued_not_received", "Certificates that were issued and whose reply was lost."),
	}
}

// Describe implements prometheus.Collector.
func (i *inventory) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		i.up, i.expiry, i.targets, i.overdue, i.held, i.paused, i.rotations, i.open, i.consumers, i.unverified, i.orphan,
	} {
		out <- desc
	}
}

// Outcomes and standings are told even while they are zero, so that an alarm can compare.
var (
	outcomes  = []activities.State{activities.Retired, activities.ProvenDead, activities.RolledBack, activities.Aborted, activities.Superseded, activities.Quarantined}
	standings = []activities.Standing{activities.UsesCandidate, activities.UsesPrevious, activities.Broken, activities.Unverifiable}
)

// Collect implements prometheus.Collector.
func (i *inventory) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectPatience)
	defer cancel()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	m, err := i.source.Metrics(ctx, i.now(), overdueGrace)
	if err != nil {
		i.log.Warn("collect metrics", "error", err)
		gauge(i.up, 0)
		return
	}
	gauge(i.up, 1)
	for _, expiry := range m.Expiries {
		gauge(i.expiry, expiry.Left.Seconds(), expiry.Target)
	}
	gauge(i.targets, float64(m.Targets))
	gauge(i.overdue, float64(m.Overdue))
	gauge(i.held, float64(m.Held))
	gauge(i.paused, float64(m.Paused))
	gauge(i.open, float64(m.Open))
	gauge(i.unverified, float64(m.Unverified))
	gauge(i.orphan, float64(m.Lost))
	for _, outcome := range outcomes {
		gauge(i.rotations, float64(m.Outcomes[outcome]), string(outcome))
	}
	for _, standing := range standings {
		gauge(i.consumers, float64(m.Standings[standing]), string(standing))
	}
}
