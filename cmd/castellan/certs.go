package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
)

func certsCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{
		Use: "certs", Aliases: []string{"cert", "certificates"},
		Short: "List, show, rotate and revoke certificates",
		Example: `  castellan certs list --expires-within 168h
  castellan certs show payments
  castellan certs rotate payments --watch
  castellan certs revoke payments --reason "key seen in a log"`,
	}
	parent.AddCommand(certsListCommand(f), certsShowCommand(f), rotateCommand(f), revokeCommand(f))
	return group(parent)
}

func certsListCommand(f *flags) *cobra.Command {
	var owner, policy, exclusion, state, expires, due string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List certificates: where their rotations stand, when they expire and are due",
		Example: `  castellan certs list
  castellan certs list --owner payments-team --due-within 24h
  castellan certs list --phase QUARANTINED -o json`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			query := filters("owner", owner, "policy", policy, "group", exclusion, "state", strings.ToUpper(state), "expires_before", expires, "due_before", due)
			list, err := pages(cmd.Context(), query, limit, client.Certificates)
			if err != nil {
				return explained(err)
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(list)
			}
			p.certificates(list.Items)
			return nil
		},
	}
	cmd.Flags().StringVar(&owner, "owner", "", "only of this owner")
	cmd.Flags().StringVar(&policy, "policy", "", "only with this policy")
	cmd.Flags().StringVar(&exclusion, "group", "", "only in this exclusion group")
	cmd.Flags().StringVar(&state, "phase", "", "only with their last rotation in this state, such as RETIRED")
	cmd.Flags().StringVar(&expires, "expires-within", "", "only those that expire within a duration (168h) or before a time")
	cmd.Flags().StringVar(&due, "due-within", "", "only those due within a duration or before a time")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many; 0: all")
	return cmd
}

func (p *printer) certificates(list []api.Certificate) {
	if len(list) == 0 {
		p.say("no certificates")
		return
	}
	var rows [][]cell
	for _, c := range list {
		expires := word(p.when(c.NotAfter))
		if !c.NotAfter.IsZero() && !c.NotAfter.After(p.now()) {
			expires.style = red
		}
		rows = append(rows, []cell{
			{c.Name, bold}, stateCell(c.State), expires, word(p.relative(c.DueAt)), word(dash(c.LastRotation)), {p.note(c), yellow},
		})
	}
	p.table([]string{"NAME", "STATE", "EXPIRES", "DUE", "LAST ROTATION", ""}, rows)
}

// note says what is unusual about a certificate.
func (p *printer) note(c api.Certificate) string {
	var notes []string
	if c.Observed {
		notes = append(notes, "observed only")
	}
	if c.HeldUntil.After(p.now()) {
		notes = append(notes, fmt.Sprintf("held for %s after %d failures", short(c.HeldUntil.Sub(p.now())), c.Failures))
	}
	return strings.Join(notes, ", ")
}

func certsShowCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one certificate and what each of its consumers was last seen to use",
		Example: `  castellan certs show payments`,
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			shown, err := client.Certificate(cmd.Context(), args[0])
			if err != nil {
				return unknownCertificate(err)
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(shown)
			}
			p.certificate(shown)
			return nil
		},
	}
}

func unknownCertificate(err error) error {
	if activities.KindOf(err) == activities.NotFound {
		return withHint(err, "see `castellan certs list`")
	}
	return explained(err)
}

func (p *printer) certificate(c api.Certificate) {
	mode := ""
	if c.Observed {
		mode = "adopted observe-only: watched, never changed"
	}
	held := ""
	if c.HeldUntil.After(p.now()) {
		held = fmt.Sprintf("until %s after %d failures: %s", p.when(c.HeldUntil), c.Failures, c.HoldReason)
	}
	p.fields(
		"certificate", cell{c.Name, bold}, "mode", mode, "owner", c.Owner, "policy", cmp.Or(c.Policy, "default"), "group", c.Group,
		"state", stateCell(c.State), "last rotation", c.LastRotation,
		"fingerprint", c.Fingerprint, "serial", c.Serial, "key", c.Key,
		"valid from", p.when(c.NotBefore), "expires", p.when(c.NotAfter), "due", p.when(c.DueAt), "held", cell{held, yellow},
	)
	p.consumers(c.Consumers)
}

func (p *printer) consumers(list []api.Consumer) {
	if len(list) == 0 {
		return
	}
	var rows [][]cell
	for _, c := range list {
		rows = append(rows, []cell{
			word(c.Consumer), word(dash(c.Address)), standingCell(c.Standing), word(dash(finger(c.Serves))),
			word(p.when(c.Since)), word(p.relative(c.SeenAt)),
		})
	}
	p.say("")
	p.table([]string{"CONSUMER", "ADDRESS", "USES", "SERVES", "SINCE", "SEEN"}, rows)
}

func standingCell(standing activities.Standing) cell {
	c := cell{text: dash(string(standing))}
	switch standing {
	case activities.UsesCandidate:
		c.style = green
	case activities.Broken:
		c.style = red
	case activities.UsesPrevious, activities.Unverifiable:
		c.style = yellow
	}
	return c
}

func rotateCommand(f *flags) *cobra.Command {
	var request api.RotateRequest
	var until string
	var watch bool
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Rotate one certificate now",
		Long: `Starts the rotation of one certificate, or tells the one under way that it shall not wait.
Without --scheduled it rotates although it is not due, and outside its maintenance windows.

With --watch it shows progress until the rotation ends. The exit code is then 0 when it ends
as RETIRED, PROVEN_DEAD, TESTED or NOT_DUE, and 1 otherwise.`,
		Example: `  castellan certs rotate payments --reason "names changed" --watch
  castellan certs rotate payments --scheduled           only if it is due, in its window
  castellan certs rotate payments --until tested        stop before any consumer sees it
  castellan certs rotate payments --compromise --reason "key seen in a log" --watch`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if until != "" && !strings.EqualFold(until, string(activities.Tested)) {
				return usage(fmt.Errorf("--until: %q is not possible, want tested", until))
			}
			if request.Scheduled && request.Compromise {
				return usage(errors.New("--scheduled and --compromise exclude each other: a compromise does not wait"))
			}
			request.Until = activities.State(strings.ToUpper(until))
			return f.rotate(cmd, args[0], request, watch)
		},
	}
	cmd.Flags().StringVar(&request.Reason, "reason", "", "one sentence for the evidence")
	cmd.Flags().BoolVar(&request.Scheduled, "scheduled", false, "only if it is due, and in its window")
	cmd.Flags().BoolVar(&request.Compromise, "compromise", false, "revoke the previous and prove it refused")
	cmd.Flags().StringVar(&until, "until", "", "stop after this state; only tested is possible")
	cmd.Flags().BoolVar(&watch, "watch", false, "show progress until it ends")
	return cmd
}

func revokeCommand(f *flags) *cobra.Command {
	var reason string
	var watch bool
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Replace a certificate, revoke it and prove it refused",
		Long: `Rotates the certificate as compromised: the candidate is spread first, then the previous
certificate is revoked and every peer that checks revocation is asked to refuse it.
The same as rotate --compromise; a reason is required.`,
		Example: `  castellan certs revoke payments --reason "key seen in a log" --watch`,
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return withHint(usage(errors.New("--reason is missing")), "say why in one sentence; it goes into the evidence")
			}
			return f.rotate(cmd, args[0], api.RotateRequest{Reason: reason, Compromise: true}, watch)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "one sentence for the evidence (required)")
	cmd.Flags().BoolVar(&watch, "watch", false, "show progress until it ends")
	return cmd
}

// rotate asks for a rotation and, if wanted, follows it to its end.
func (f *flags) rotate(cmd *cobra.Command, name string, request api.RotateRequest, watch bool) error {
	client, err := f.client(cmd.Context())
	if err != nil {
		return err
	}
	started, err := client.Rotate(cmd.Context(), name, request)
	if err != nil {
		return unknownCertificate(err)
	}
	p := f.printer(cmd)
	if watch {
		w := &watcher{client: client, printer: p, target: name, run: started.Run}
		return w.follow(cmd.Context())
	}
	if p.json {
		return p.value(started)
	}
	switch {
	case started.Running:
		p.say("a rotation of %s is under way already: %s", name, started.Workflow)
	default:
		p.say("rotation of %s started: %s, run %s", name, started.Workflow, started.Run)
	}
	p.say("watch it with `castellan rotations watch %s`", name)
	return nil
}
