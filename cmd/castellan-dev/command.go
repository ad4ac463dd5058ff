package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/config"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/engine"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/state"
	"castellan.dev/workers"
)

// flags are what every command shares.
type flags struct {
	state     string
	config    string
	zones     string
	logFormat string
	logLevel  string
	ports     dev.Ports
	life      time.Duration
}

func command() *cobra.Command {
	f := new(flags)
	root := &cobra.Command{
		Use:   "castellan-dev",
		Short: "castellan in one process, for development and trial",
		Long: `castellan-dev runs everything on loopback: an embedded Temporal server, an embedded
certificate authority, the encrypted store, SQLite, the API, the web page and every zone.
All state is in one directory; a restart continues where it stopped.

It is not for production: the embedded server has one node and one file.`,
		Example: `  castellan-dev                          start with the state directory's castellan.yaml
  castellan-dev --config castellan.yaml  start with another configuration
  castellan-dev --zones none             leave the zones to separate castellan worker processes
  eval "$(castellan-dev env)"            let the public temporal command line connect`,
		SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd, f) },
	}
	root.PersistentFlags().StringVar(&f.state, "state", "", "state directory (default: castellan under the user's data directory)")
	root.Flags().StringVar(&f.config, "config", "", "configuration file (default: castellan.yaml in the state directory)")
	root.Flags().StringVar(&f.zones, "zones", "all", "zones to serve in this process: all, none, or names separated by commas; record is always served")
	root.Flags().StringVar(&f.logFormat, "log-format", "text", "text or json")
	root.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	root.Flags().IntVar(&f.ports.Engine, "engine-port", 7233, "port of the Temporal frontend; 0 takes a free one")
	root.Flags().IntVar(&f.ports.API, "api-port", 8443, "port of the API; 0 takes a free one")
	root.Flags().IntVar(&f.ports.Web, "web-port", 8233, "port of the web page; 0 takes a free one")
	root.Flags().IntVar(&f.ports.CA, "ca-port", 9443, "port of the certificate authority; 0 takes a free one")
	root.Flags().DurationVar(&f.life, "identity-life", identity.DefaultLife, "lifetime of castellan's own certificates")
	root.AddCommand(engineCommand(f), envCommand(f))
	root.AddCommand(demoCommands(f)...)
	return root
}

// dir returns the state directory.
func (f *flags) dir() (state.Dir, error) {
	if f.state != "" {
		return state.Dir(f.state), nil
	}
	return state.Default()
}

func run(cmd *cobra.Command, f *flags) error {
	dir, err := f.dir()
	if err != nil {
		return err
	}
	if err := dir.Make(); err != nil {
		return err
	}
	cfg, err := f.load(dir)
	if err != nil {
		return err
	}
	zones, err := parseZones(f.zones)
	if err != nil {
		return err
	}
	logger, err := newLogger(f.logFormat, f.logLevel)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "castellan-dev: not for production; everything is in "+string(dir))
	process, err := dev.Start(cmd.Context(), dev.Options{State: dir, Config: cfg, Zones: zones, Ports: f.ports, Now: time.Now, Logger: logger, Life: f.life})
	if err != nil {
		return err
	}
	process.Welcome(cmd.OutOrStdout())
	return process.Run(cmd.Context())
}

// load reads the configuration; without one castellan-dev starts with nothing to rotate.
func (f *flags) load(dir state.Dir) (*config.Config, error) {
	path := f.config
	if path == "" {
		path = dir.Config()
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := os.WriteFile(path, []byte(dev.FirstConfig), 0o600); err != nil {
				return nil, fmt.Errorf("write first configuration: %w", err)
			}
		}
	}
	cfg, problems := config.Load(path)
	if cfg != nil {
		problems = append(problems, cfg.Check(workers.Catalogue())...)
	}
	return cfg, problems.Err()
}

func parseZones(text string) ([]activities.Zone, error) {
	switch text {
	case "all":
		return activities.Zones(), nil
	case "none":
		return nil, nil
	}
	var zones []activities.Zone
	for name := range strings.SplitSeq(text, ",") {
		zone := activities.Zone(strings.TrimSpace(name))
		known := false
		for _, z := range activities.Zones() {
			known = known || z == zone
		}
		if !known {
			return nil, fmt.Errorf("--zones: %q is not a zone; want all, none, or some of control, privileged, observe", name)
		}
		zones = append(zones, zone)
	}
	return zones, nil
}

func newLogger(format, level string) (*slog.Logger, error) {
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %q is not one of debug, info, warn, error", level)
	}
	options := &slog.HandlerOptions{Level: threshold}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, fmt.Errorf("--log-format: %q is not one of text, json", format)
}

func engineCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{Use: "engine", Short: "Look after the embedded engine's own files"}
	parent.AddCommand(&cobra.Command{
		Use:   "reset",
		Short: "Remove the embedded engine's files",
		Long: `Removes the files of the embedded Temporal server and nothing else: the certificate
authority, the service database, the stores and the evidence ledger stay. Open rotations
start again by observation, under the same rotation id and with the same candidate.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := f.dir()
			if err != nil {
				return err
			}
			if err := engine.Reset(dir.Engine()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "engine files removed; open rotations restart by observation at the next start")
			return nil
		},
	})
	return parent
}

func envCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:     "env",
		Short:   "Print what the public temporal command line and SDKs need to connect",
		Example: `  eval "$(castellan-dev env)" && temporal workflow list`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := f.dir()
			if err != nil {
				return err
			}
			endpoints, err := dir.Endpoints()
			if err != nil {
				return err
			}
			for _, variable := range engine.Environment(endpoints.Engine, endpoints.Namespace, identity.FilesIn(dir.Identity(), identity.Operator)) {
				fmt.Fprintln(cmd.OutOrStdout(), "export "+variable)
			}
			return nil
		},
	}
}
