package main

import (
	"context"
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

	exitInterrupted = 130 // by a signal; what was asked of castellan goes on
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
4 denied, 5 not found, 6 not possible in the present state, 130 interrupted.

With --output json every command prints JSON with stable field names; errors stay one line
of text on standard error. Colours appear only on a terminal, and not when NO_COLOR is set.`,
		Example: `  castellan certs list
  castellan certs rotate payments --reason "key seen in a log" --watch
  castellan rotations watch payments
  castellan worker --zone privileged
  castellan evidence verify export.jsonl --key ledger.pub --checkpoint checkpoints-000000.txt`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return f.check() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.PersistentFlags().StringVar(&f.config, "config", "", "configuration file (default: castellan.yaml in the state directory)")
	root.PersistentFlags().StringVar(&f.state, "state", "", "state directory (default: castellan under the user's data directory)")
	root.PersistentFlags().StringVarP(&f.output, "output", "o", "text", "text or json")
	root.PersistentFlags().StringVar(&f.logFormat, "log-format", "text", "text or json")
	root.PersistentFlags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	alias := rotateCommand(f)
	alias.Short = "Rotate one certificate now (as `castellan certs rotate`)"
	root.AddCommand(
		certsCommand(f), alias, adoptCommand(f), rotationsCommand(f), schedulesCommand(f), evidenceCommand(f),
		configCommand(f), rescueCommand(f), identityCommand(f), keyringCommand(f), workerCommand(f), serveCommand(f), versionCommand(f),
	)
	group(root)
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// check refuses values of the shared flags that no command understands.
func (f *flags) check() error {
	if f.output != "text" && f.output != "json" {
		return usage(fmt.Errorf("--output: %q is not one of text, json", f.output))
	}
	return nil
}

// dir returns the state directory.
func (f *flags) dir() (state.Dir, error) {
	if f.state != "" {
		return state.Dir(f.state), nil
	}
	return state.Default()
}

// group makes a command that only holds others: alone it shows its help, and what it does not know is a
// mistake with a suggestion.
func group(parent *cobra.Command) *cobra.Command {
	parent.Args, parent.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
	parent.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		err := usage(fmt.Errorf("%q is not a command of %s", args[0], cmd.CommandPath()))
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return withHint(err, "did you mean `"+cmd.CommandPath()+" "+near[0]+"`?")
		}
		return withHint(err, "see `"+cmd.CommandPath()+" --help`")
	}
	return parent
}

// args demands exactly the named arguments.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		switch {
		case len(given) < len(names):
			return withHint(usage(fmt.Errorf("%s is missing", names[len(given)])), "usage: "+cmd.UseLine())
		case len(given) > len(names):
			return withHint(usage(fmt.Errorf("unexpected argument %q", given[len(names)])), "usage: "+cmd.UseLine())
		}
		return nil
	}
}

// open reads the configuration and finds the installation.
func (f *flags) open() (*installation.Installation, error) {
	dir, err := f.dir()
	if err != nil {
		return nil, err
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

// answerError is a bad answer that the command has printed already: only the exit code is left to say.
type answerError struct{ sentence string }

func (e answerError) Error() string { return e.sentence }

// report prints an error for people and returns the exit code that scripts see.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
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
