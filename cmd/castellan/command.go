package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/state"
)

// Exit codes. They are stable: scripts depend on them.
const (
	exitOK          = 0
	exitFailed      = 1 // the thing was done or looked at, and the answer is bad
	exitUsage       = 2 // flags, arguments or configuration are wrong
	exitUnreachable = 3 // castellan, Temporal or a target could not be reached
	exitDenied      = 4 // the caller may not do that
	exitNotFound    = 5 // what was named does not exist
	exitConflict    = 6 // it cannot be done in the present state
)

// flags are what every command shares.
type flags struct {
	config    string
	state     string
	output    string
	logFormat string
	logLevel  string
}

func command() *cobra.Command {
	f := new(flags)
	root := &cobra.Command{
		Use:   "castellan",
		Short: "Durable rotation of certificates and secrets",
		Long: `castellan keeps certificates and secrets fresh as durable Temporal workflows: the previous
credential is retired only when every consumer is proven to use the next one, and every
effect leaves a record that an auditor can verify offline.

Commands find the installation through --config, or through the state directory of a
castellan-dev on this machine.

Exit codes: 0 done, 1 the answer is bad, 2 usage or configuration, 3 unreachable,
4 denied, 5 not found, 6 not possible in the present state.`,
		Example: `  castellan certs list
  castellan certs rotate payments --reason "key seen in a log" --watch
  castellan rotations watch payments
  castellan worker --zone privileged
  castellan evidence verify export.jsonl --key ledger.pub --checkpoint checkpoints-000001.txt`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.PersistentFlags().StringVar(&f.config, "config", "", "configuration file (default: castellan.yaml in the state directory)")
	root.PersistentFlags().StringVar(&f.state, "state", "", "state directory (default: castellan under the user's data directory)")
	root.PersistentFlags().StringVarP(&f.output, "output", "o", "text", "text or json")
	root.PersistentFlags().StringVar(&f.logFormat, "log-format", "text", "text or json")
	root.PersistentFlags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	root.AddCommand(workerCommand(f), serveCommand(f))
	return root
}

// open reads the configuration and finds the installation.
func (f *flags) open() (*installation.Installation, error) {
	dir := state.Dir(f.state)
	if f.state == "" {
		var err error
		if dir, err = state.Default(); err != nil {
			return nil, err
		}
	}
	logger, err := f.logger()
	if err != nil {
		return nil, err
	}
	i, err := installation.Open(f.config, dir, logger)
	if err != nil {
		return nil, usage(err)
	}
	return i, nil
}

func (f *flags) logger() (*slog.Logger, error) {
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usage(fmt.Errorf("--log-level: %q is not one of debug, info, warn, error", f.logLevel))
	}
	options := &slog.HandlerOptions{Level: threshold}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, usage(fmt.Errorf("--log-format: %q is not one of text, json", f.logFormat))
}

// usageError is a mistake in flags, arguments or configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(err error) error { return usageError{err} }

// hintError carries a hint on a line of its own.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

func withHint(err error, hint string) error { return hintError{err, hint} }

// report prints an error for people and returns the exit code that scripts see.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(w, "castellan: "+err.Error())
	var hint hintError
	if errors.As(err, &hint) {
		fmt.Fprintln(w, "hint: "+hint.hint)
	}
	var wrong usageError
	var own *activities.Error
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &own):
		return exitOf(own.Kind)
	}
	return exitFailed
}

func exitOf(kind activities.Kind) int {
	switch kind {
	case activities.Invalid:
		return exitUsage
	case activities.Denied:
		return exitDenied
	case activities.NotFound:
		return exitNotFound
	case activities.Conflict, activities.Fenced:
		return exitConflict
	case activities.Transient, activities.Throttled, activities.Uncertain:
		return exitUnreachable
	}
	return exitFailed
}
