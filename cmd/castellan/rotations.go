package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/workflows/rotation"
)

func rotationsCommand(f *flags) *cobra.Command {
	parent := &cobra.Command{
		Use: "rotations", Aliases: []string{"rotation"},
		Short: "List, show, watch and steer rotations",
		Example: `  castellan rotations list --open
  castellan rotations show payments@3
  castellan rotations watch payments
  castellan rotations pause payments --reason "release freeze"`,
	}
	parent.AddCommand(rotationsListCommand(f), rotationsShowCommand(f), watchCommand(f))
	for _, message := range rotation.Messages() {
		parent.AddCommand(messageCommand(f, message))
	}
	return group(parent)
}

func rotationsListCommand(f *flags) *cobra.Command {
	var target, state, trigger, since string
	var open bool
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List rotation records, the latest first",
		Example: `  castellan rotations list --open
  castellan rotations list --target payments --limit 5
  castellan rotations list --phase ROLLED_BACK --since=-168h`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			query := filters("target", target, "state", strings.ToUpper(state), "trigger", trigger, "since", since)
			if open {
				query.Set("open", "true")
			}
			list, err := pages(cmd.Context(), query, limit, client.Rotations)
			if err != nil {
				return explained(err)
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(list)
			}
			p.rotations(list.Items)
			return nil
		},
	}
	cmd.Flags().StringVar(&target, "target", "", "only of this certificate")
	cmd.Flags().StringVar(&state, "phase", "", "only in this state, such as PUBLISHED")
	cmd.Flags().StringVar(&trigger, "trigger", "", "only from this trigger: schedule, operator, emergency")
	cmd.Flags().StringVar(&since, "since", "", "only those begun since a time, or a duration before now (-24h)")
	cmd.Flags().BoolVar(&open, "open", false, "only those that have not ended")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0: all")
	return cmd
}

func (p *printer) rotations(list []api.Rotation) {
	if len(list) == 0 {
		p.say("no rotations")
		return
	}
	var rows [][]cell
	for _, r := range list {
		took := "-"
		if !r.Ended.IsZero() {
			took = short(r.Ended.Sub(r.Started))
		}
		why := r.Sentence
		if len(r.Stragglers) > 0 && r.Ended.IsZero() {
			why = fmt.Sprintf("%d stragglers", len(r.Stragglers))
		}
		rows = append(rows, []cell{{string(r.ID), bold}, stateCell(r.State), word(dash(r.Trigger.Source)), word(p.when(r.Started)), word(took), word(why)})
	}
	p.table([]string{"ROTATION", "STATE", "TRIGGER", "STARTED", "TOOK", ""}, rows)
}

func rotationsShowCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show one rotation's record",
		Example: `  castellan rotations show payments@3`,
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			shown, err := client.Rotation(cmd.Context(), args[0])
			if activities.KindOf(err) == activities.NotFound && err != nil {
				return withHint(err, "an id is like payments@3; see `castellan rotations list`")
			}
			if err != nil {
				return explained(err)
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(shown)
			}
			p.rotation(shown)
			return nil
		},
	}
}

func (p *printer) rotation(r api.Rotation) {
	trigger := strings.TrimSpace(r.Trigger.Source + " " + r.Trigger.Actor)
	if r.Trigger.Reason != "" {
		trigger += ": " + r.Trigger.Reason
	}
	p.fields(
		"rotation", cell{string(r.ID), bold}, "certificate", r.Target, "epoch", fmt.Sprint(r.Epoch), "state", stateCell(r.State),
		"asked for by", trigger, "workflow", r.Workflow, "run", r.Run,
		"started", p.when(r.Started), "published", p.when(r.Published), "ended", p.when(r.Ended), "updated", p.when(r.Updated),
		"candidate", r.Fingerprint, "valid until", p.when(r.NotAfter), "previous", r.Previous, "outcome", r.Sentence,
	)
	p.stragglers(r.Stragglers)
}

// stragglers lists who is not proven to use the candidate.
func (p *printer) stragglers(list []activities.Straggler) { p.stragglersTitled("STRAGGLER", list) }

func (p *printer) stragglersTitled(title string, list []activities.Straggler) {
	if len(list) == 0 {
		return
	}
	rows := make([][]cell, 0, len(list))
	for _, s := range list {
		rows = append(rows, []cell{
			word(s.Consumer), word(dash(s.Address)), standingCell(s.Standing), word(dash(finger(s.Serves))), word(p.when(s.Since)), word(s.Detail),
		})
	}
	p.say("")
	p.table([]string{title, "ADDRESS", "USES", "SERVES", "SINCE", ""}, rows)
}

// steering says for people what each message does.
var steering = map[string]string{
	rotation.Pause:      "Stop before the next step; nothing visible changes until resume",
	rotation.Resume:     "Go on after pause",
	rotation.Abort:      "End without the candidate: discard it, or put the previous back",
	rotation.RotateNow:  "Do not wait for the due date or the window",
	rotation.SkipWindow: "Do not wait for the maintenance window",
}

func messageCommand(f *flags, message string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     message + " NAME",
		Short:   steering[message],
		Example: fmt.Sprintf("  castellan rotations %s payments --reason \"release freeze\"", message),
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			state, err := client.Tell(cmd.Context(), args[0], message, reason)
			if activities.KindOf(err) == activities.NotFound && err != nil {
				return withHint(err, "see `castellan rotations list --open`, or start one with `castellan certs rotate "+args[0]+"`")
			}
			if err != nil {
				return explained(err)
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(state)
			}
			p.line(word(cmp.Or(string(state.Plan.Rotation), args[0])), stateCell(state.State), word(told(message)))
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "one sentence for the evidence")
	return cmd
}

// told says what is true after a message.
func told(message string) string {
	switch message {
	case rotation.Pause:
		return "paused: it stops before the next step"
	case rotation.Resume:
		return "goes on"
	case rotation.Abort:
		return "aborts; watch it to its end with `castellan rotations watch`"
	}
	return "does not wait"
}
