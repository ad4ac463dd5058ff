package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/worker"

	"castellan.dev/activities"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/telemetry"
	"castellan.dev/workers"
)

func workerCommand(f *flags) *cobra.Command {
	var zone, host string
	cmd := &cobra.Command{
		Use:   "worker --zone ZONE",
		Short: "Serve one zone's activities",
		Long: `Serves one zone. A worker holds only the credentials of its zone, and shows Temporal and
the ledger the identity of its zone. The record zone is served by castellan serve.

Zones: control (workflows), privileged (changes targets), observe (looks at consumers).
With --host, a privileged worker serves only the targets whose files are on that host.`,
		Example: `  castellan worker --zone control
  castellan worker --zone privileged --host web1
  castellan worker --zone observe --config /etc/castellan/castellan.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := f.open()
			if err != nil {
				return err
			}
			// Metrics are served by castellan serve: a worker may share its configuration and its machine.
			i.Telemetry, err = telemetry.New(cmd.Context(), i.Config.Telemetry,
				telemetry.Options{Service: "castellan-worker-" + zone, Logger: i.Logger, WithoutMetrics: true})
			if err != nil {
				return err
			}
			defer closing(cmd.Context(), i, "close telemetry", i.Telemetry.Close)
			w, err := zoneWorker(cmd.Context(), i, activities.Zone(zone), host)
			if err != nil {
				return err
			}
			if err := w.Start(); err != nil {
				return fmt.Errorf("start worker of zone %s: %w", zone, err)
			}
			i.Logger.Info("zone served", "zone", zone, "host", host, "queue", activities.Zone(zone).Queue(host))
			err = i.Renew(cmd.Context())
			<-cmd.Context().Done()
			w.Stop()
			return err
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "control, privileged or observe (required)")
	cmd.Flags().StringVar(&host, "host", "", "for privileged: the host whose targets this worker holds")
	return cmd
}

// zoneWorker connects with the zone's own identity and builds its worker.
func zoneWorker(ctx context.Context, i *installation.Installation, zone activities.Zone, host string) (worker.Worker, error) {
	name := string(zone)
	if host != "" {
		if zone != activities.Privileged {
			return nil, usage(fmt.Errorf("--host: only the privileged zone is split by host, not %q", zone))
		}
		name += "/" + host
	}
	switch zone {
	case activities.Control, activities.Privileged, activities.Observe:
	case activities.Record:
		return nil, usage(errors.New("--zone: record is served by castellan serve, which holds the service database"))
	default:
		return nil, usage(fmt.Errorf("--zone: %q is not one of control, privileged, observe", zone))
	}
	engine, _, err := i.Engine(ctx, name)
	if err != nil {
		return nil, err
	}
	settings := workers.Settings{Engine: engine, Deployment: deployment()}
	if zone == activities.Control {
		// Only its engine may want to see its identity, so it may do without; where there is one it is
		// kept fresh.
		if _, err := i.Identity(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return workers.Control(settings), nil
	}
	recorder, err := i.Recorder(ctx, name)
	if err != nil {
		return nil, err
	}
	if zone == activities.Observe {
		return workers.Observe(settings, workers.ObserveParts{Config: i.Config, Recorder: recorder, Embedded: i.Embedded(), Now: i.Now})
	}
	secrets, err := i.Store()
	if err != nil {
		return nil, err
	}
	return workers.Privileged(settings, workers.PrivilegedParts{
		Config: i.Config, Store: secrets, Recorder: recorder, Embedded: i.Embedded(), Memory: i.Dir.Memory(), Now: i.Now,
	}, host)
}

// deployment reads the worker's version as Temporal's worker controller sets it. Without it workers are
// unversioned, as in development.
func deployment() worker.DeploymentOptions {
	name, build := os.Getenv("TEMPORAL_DEPLOYMENT_NAME"), os.Getenv("TEMPORAL_WORKER_BUILD_ID")
	if name == "" || build == "" {
		return worker.DeploymentOptions{}
	}
	return worker.DeploymentOptions{UseVersioning: true, Version: worker.WorkerDeploymentVersion{DeploymentName: name, BuildID: build}}
}
