package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"castellan.dev/internal/demo"
)

// demoCommands returns the show and the services that it starts.
func demoCommands(f *flags) []*cobra.Command {
	return []*cobra.Command{{
		Use:   "demo",
		Short: "Watch certificates being rotated under load while a worker is killed",
		Long: `Starts castellan-dev, a worker and two services in processes of their own, opens new
connections all the time, and shows within two to three minutes: the schedule firing, rotations,
a worker killed with SIGKILL and its rotation ending as it began, a straggler that is named and
converges, a compromised certificate revoked and refused, the evidence verified and a tampered
copy refused. Ends with a summary; exits 1 when one handshake failed or an act did not happen.

On a terminal it keeps running until Ctrl-C, unless DEMO_EXIT=1. Without --state everything is in
a temporary directory that is removed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			castellan := filepath.Join(filepath.Dir(self), "castellan")
			if _, err := os.Stat(castellan); err != nil {
				return fmt.Errorf("find castellan beside castellan-dev: %w; run `make build`", err)
			}
			return demo.Run(ctx, demo.Options{
				Self: self, Castellan: castellan, State: f.state, Out: os.Stdout,
				Stay: os.Getenv("DEMO_EXIT") != "1" && term.IsTerminal(int(os.Stdout.Fd())),
			})
		},
	}, serviceCommand()}
}

// serviceCommand runs one service of the demo on the socket that it inherits as descriptor 3, until its
// standard input ends.
func serviceCommand() *cobra.Command {
	var config demo.ServiceConfig
	cmd := &cobra.Command{
		Use: "demo-service", Short: "Run one service of the demo", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the demo, also when that is killed
				cancel()
			}()
			file := os.NewFile(3, "socket")
			listener, err := net.FileListener(file)
			if err != nil {
				return fmt.Errorf("take over socket: %w", err)
			}
			file.Close()
			config.Listener = listener
			config.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
			service, err := demo.NewService(config)
			if err != nil {
				return err
			}
			return service.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&config.Name, "name", "", "name of the service")
	cmd.Flags().StringVar(&config.Pair, "pair", "", "directory with tls.crt, tls.key and ca.crt")
	cmd.Flags().BoolVar(&config.Clients, "clients", false, "demand client certificates")
	cmd.Flags().StringVar(&config.CRL, "crl", "", "URL of the revocation list")
	cmd.Flags().StringArrayVar(&config.Upstream, "upstream", nil, "host:port that requests are passed on to; repeatable")
	cmd.Flags().DurationVar(&config.Lag, "lag", 0, "how late a changed certificate is used")
	return cmd
}
