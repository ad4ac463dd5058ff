package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"castellan.dev/internal/codec"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/serve"
	"castellan.dev/internal/telemetry"
	"castellan.dev/workers"
)

func serveCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the API, the evidence ledger, the record zone and the schedules",
		Long: `Runs the heart of an installation against any Temporal: the API, the ledger with its one
signing key, the inventory, the schedules and their watchdog. Run one at a time.`,
		Example: `  castellan serve --config /etc/castellan/castellan.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := f.open()
			if err != nil {
				return err
			}
			return runServe(cmd.Context(), i)
		},
	}
}

func runServe(ctx context.Context, i *installation.Installation) error {
	if i.Config.API.Listen == "" {
		i.Config.API.Listen = "127.0.0.1:8443"
	}
	if err := i.Dir.Make(); err != nil {
		return err
	}
	told, err := telemetry.New(ctx, i.Config.Telemetry, telemetry.Options{Service: "castellan-serve", Logger: i.Logger})
	if err != nil {
		return err
	}
	i.Telemetry = told
	defer closing(ctx, i, "close telemetry", told.Close)
	engine, sealed, err := i.Engine(ctx, identity.Serve)
	if err != nil {
		return err
	}
	defer engine.Close()
	database, err := i.Database(ctx)
	if err != nil {
		return err
	}
	defer database.Close()
	log, err := i.Ledger(ctx, database)
	if err != nil {
		return err
	}
	defer closing(ctx, i, "close ledger", log.Close)
	source, err := i.Identity(ctx, identity.Serve)
	if err != nil {
		return err
	}
	authority, err := i.Authority()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", i.Config.API.Listen)
	if err != nil {
		return fmt.Errorf("listen on api.listen: %w", err)
	}
	service, err := serve.New(ctx, serve.Parts{
		Config: i.Config, Settings: workers.Settings{Engine: engine, Deployment: deployment()}, Converter: codec.NewDataConverter(sealed),
		Database: database, Ledger: log, Identity: source, Authority: authority, Listener: listener, Now: i.Now, Logger: i.Logger,
	})
	if err != nil {
		return err
	}
	if err := told.Register(telemetry.Inventory(database, i.Now, i.Logger), service.Watchdog()); err != nil {
		return err
	}
	i.Logger.Info("serving", "api", listener.Addr().String(), "metrics", told.Address(), "renewsIdentities", authority != nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return told.Run(ctx) })
	group.Go(func() error { return service.Run(ctx) })
	group.Go(func() error { return i.Renew(ctx) })
	return group.Wait()
}

// closing closes a part after the context has ended; nobody is left to return the failure to.
func closing(ctx context.Context, i *installation.Installation, act string, part func(context.Context) error) {
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := part(stop); err != nil {
		i.Logger.Error(act, "error", err)
	}
}
