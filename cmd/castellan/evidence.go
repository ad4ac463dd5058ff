package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/ledger"
)

func evidenceCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{
		Use:   "evidence",
		Short: "Export, prove and verify the evidence ledger",
		Long: `Every effect leaves a record before and after it. An outsider verifies an export offline,
with nothing but the file, the pinned key and a checkpoint from elsewhere.`,
		Example: `  castellan evidence key > ledger.pub                  pin this once
  castellan evidence export -f export.jsonl
  castellan evidence verify export.jsonl --key ledger.pub --checkpoint checkpoints-000000.txt`,
	}
	parent.AddCommand(exportCommand(f), proveCommand(f), keyCommand(f), changeKeyCommand(f), verifyCommand(f))
	return group(parent)
}

func exportCommand(f *flags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write every record, with a signed checkpoint over them",
		Example: `  castellan evidence export -f export.jsonl
  castellan evidence export | gzip > export.jsonl.gz`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.fetch(cmd, url.Values{}, file)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "write to this file instead of standard output")
	return cmd
}

func proveCommand(f *flags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "prove ID",
		Short: "Write a proof of one record that stands without the rest",
		Example: `  castellan evidence prove 9f86d081884c7d65 -f proof.json
  castellan evidence verify proof.json --key ledger.pub`,
		Args: args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.fetch(cmd, url.Values{"record": {args[0]}}, file)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "write to this file instead of standard output")
	return cmd
}

// fetch streams evidence to a file, which appears only when it is complete, or to standard output.
func (f *flags) fetch(cmd *cobra.Command, query url.Values, path string) error {
	client, err := f.client(cmd.Context())
	if err != nil {
		return err
	}
	stream, err := client.Evidence(cmd.Context(), query)
	if err != nil {
		return explained(err)
	}
	defer stream.Close()
	if path == "" {
		_, err := io.Copy(cmd.OutOrStdout(), stream)
		return incomplete(err)
	}
	draft := path + ".part"
	out, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write evidence: %w", err)
	}
	size, err := io.Copy(out, stream)
	if err := errors.Join(incomplete(err), out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(draft))
	}
	if err := os.Rename(draft, path); err != nil {
		return fmt.Errorf("write evidence: %w", err)
	}
	p := f.printer(cmd)
	if p.json {
		return p.value(map[string]any{"file": path, "bytes": size})
	}
	p.say("%s: %d bytes", path, size)
	return nil
}

func incomplete(err error) error {
	if err == nil {
		return nil
	}
	return activities.Errorf(activities.Transient, "read evidence: the answer was cut off: %w", err)
}

func verifyCommand(f *flags) *cobra.Command {
	var key string
	var checkpoints []string
	var complete bool
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify an export or a proof offline",
		Long: `Verifies an export or a proof without any installation: a dropped, edited, swapped, inserted
or duplicated record, a cut-off end, a fork and a foreign signature are found, and the first
broken record is named. What could not be checked, for want of the pinned key or of a
checkpoint from elsewhere, is said.

FILE may be - for standard input. It exits 1 when something is broken, and with --complete
also when something could not be checked.`,
		Example: `  castellan evidence verify export.jsonl --key ledger.pub --checkpoint checkpoints-000000.txt
  castellan evidence verify proof.json --key ledger.pub -o json`,
		Args: args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := pinned(key, checkpoints)
			if err != nil {
				return err
			}
			report, err := verifyFile(cmd.Context(), cmd.InOrStdin(), args[0], options)
			if err != nil {
				return err
			}
			return f.verdict(cmd, report, complete)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "pinned public key: a file, or the line itself")
	cmd.Flags().StringArrayVar(&checkpoints, "checkpoint", nil, "file of checkpoints from elsewhere; may be repeated")
	cmd.Flags().BoolVar(&complete, "complete", false, "exit 1 also when something could not be checked")
	return cmd
}

// pinned reads what the verifier holds from elsewhere.
func pinned(key string, checkpoints []string) (ledger.VerifyOptions, error) {
	var options ledger.VerifyOptions
	if key != "" {
		line, err := os.ReadFile(key)
		if errors.Is(err, fs.ErrNotExist) && strings.Count(key, "+") >= 2 {
			line, err = []byte(key), nil
		}
		if err != nil {
			return options, usage(fmt.Errorf("--key: %w", err))
		}
		if options.Key, err = ledger.ParsePublicKey(line); err != nil {
			return options, usage(fmt.Errorf("--key: %w", err))
		}
	}
	for _, path := range checkpoints {
		file, err := os.Open(path)
		if err != nil {
			return options, usage(fmt.Errorf("--checkpoint: %w", err))
		}
		list, err := ledger.ReadCheckpoints(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return options, usage(fmt.Errorf("--checkpoint: %s: %w", path, err))
		}
		options.Checkpoints = append(options.Checkpoints, list...)
	}
	return options, nil
}

func verifyFile(_ context.Context, stdin io.Reader, path string, options ledger.VerifyOptions) (*ledger.Report, error) {
	if path == "-" {
		return ledger.Verify(stdin, options)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, usage(err)
	}
	defer file.Close()
	return ledger.Verify(file, options)
}

// verdict prints the report, and fails with its first problem.
func (f *flags) verdict(cmd *cobra.Command, report *ledger.Report, complete bool) error {
	p := f.printer(cmd)
	var err error
	if p.json {
		err = p.value(report)
	} else {
		err = report.Write(p.out)
	}
	if err != nil {
		return err
	}
	if first, broken := report.First(); broken {
		where := ""
		if first.First >= 0 {
			where = fmt.Sprintf(" at record %d", first.First)
		}
		return answerError{fmt.Sprintf("evidence is broken%s: %s: %s", where, first.What, first.Sentence)}
	}
	if complete && !report.Complete() {
		return answerError{"evidence is not fully checked: " + cmp.Or(strings.Join(report.NotChecked, "; "), "see the report")}
	}
	return nil
}
