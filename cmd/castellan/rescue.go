package main

import (
	"fmt"
	"os/user"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/rescue"
)

func rescueCommand(f *flags) *cobra.Command {
	options := rescue.Options{Patience: time.Minute}
	var rollback bool
	cmd := &cobra.Command{
		Use:   "rescue NAME",
		Short: "End a half rotation without Temporal",
		Long: `For the day on which Temporal and castellan serve are gone: reads from the store where the
rotation of one certificate stands, looks at the target and its consumers, and finishes it
with the same candidate, or rolls it back, under the same fences and with the same evidence.

It opens the store and the service database itself, so it runs where their credentials are,
and it refuses while castellan still answers. It begins no rotation. With consumers that are
not proven it stops before the previous is retired, exits with 1, and may be run again.`,
		Example: `  castellan rescue payments --dry-run     what is true, and what would be done
  castellan rescue payments               finish it
  castellan rescue payments --rollback    take it back
  castellan rescue payments --wait 10m --reason "Temporal lost its database"`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			options.Target, options.Actor = args[0], person()
			return f.rescue(cmd, options, rollback)
		},
	}
	cmd.Flags().BoolVar(&rollback, "rollback", false, "put the previous back instead of finishing")
	cmd.Flags().BoolVar(&options.Dry, "dry-run", false, "only say what is true and what would be done")
	cmd.Flags().BoolVar(&options.Gone, "serve-is-gone", false, "something else answers at the API's address, such as a load balancer")
	cmd.Flags().DurationVar(&options.Patience, "wait", options.Patience, "how long each step and the stragglers are waited for")
	cmd.Flags().StringVar(&options.Reason, "reason", "rescue: the engine is gone", "one sentence for the evidence")
	return cmd
}

// person names who runs the command, as the machine knows them.
func person() string {
	if current, err := user.Current(); err == nil {
		return "rescue:" + current.Username
	}
	return "rescue"
}

func (f *flags) rescue(cmd *cobra.Command, options rescue.Options, rollback bool) (err error) {
	i, err := f.open()
	if err != nil {
		return err
	}
	p := f.printer(cmd)
	options.Tell = p.told
	r, err := rescue.Open(cmd.Context(), i, options)
	if err != nil {
		return rescueHint(err)
	}
	defer func() {
		if closing := r.Close(); err == nil {
			err = closing
		}
	}()
	if options.Dry {
		found, err := r.Look(cmd.Context())
		if err != nil {
			return err
		}
		if p.json {
			return p.value(found)
		}
		p.situation(found, rollback)
		return nil
	}
	end := r.Forward
	if rollback {
		end = r.Rollback
	}
	outcome, err := end(cmd.Context())
	if err == nil || outcome.Rotation != "" {
		if printing := p.rescued(outcome); err == nil {
			err = printing
		}
	}
	return rescueHint(err)
}

func rescueHint(err error) error {
	if err == nil {
		return nil
	}
	switch activities.KindOf(err) {
	case activities.Conflict:
		if strings.Contains(err.Error(), "still answers") {
			return withHint(err, "use `castellan certs rotate`; if only a load balancer answers there, say --serve-is-gone")
		}
		if strings.Contains(err.Error(), "rolled back") {
			return withHint(err, "run it again with --rollback")
		}
	case activities.Failed:
		return withHint(err, "nothing was retired; reload the consumer and run it again, or take it back with --rollback")
	case activities.Transient:
		return withHint(err, "run it again when what it names can be reached; an authority inside castellan-dev needs `castellan-dev engine reset` and a start instead")
	}
	return err
}

// told prints one event of a rescue; for scripts, one JSON object per line.
func (p *printer) told(event rescue.Event) {
	if p.json {
		_ = p.event(event) // the reader of the pipe is gone: the rescue goes on without it
		return
	}
	p.line(text("%-16s", event.Step), word(event.Sentence))
	for _, s := range event.Stragglers {
		p.line(text("%16s", ""), cell{strings.TrimSpace(fmt.Sprintf("%s %s: %s %s", s.Consumer, s.Address, s.Standing, s.Detail)), standingCell(s.Standing).style})
	}
}

func (p *printer) rescued(outcome rescue.Outcome) error {
	if p.json {
		return p.event(outcome)
	}
	p.line(cell{string(outcome.Rotation), bold}, stateCell(outcome.State), word(outcome.Sentence))
	for _, missing := range outcome.NotProvable {
		p.line(cell{"not provable: " + missing, yellow})
	}
	return nil
}

func (p *printer) situation(s rescue.Situation, rollback bool) {
	var delivered []string
	for name, fingerprint := range s.Delivered {
		delivered = append(delivered, name+" "+dash(finger(fingerprint)))
	}
	sort.Strings(delivered)
	fence := ""
	if s.Open && s.Fence != s.Epoch {
		fence = fmt.Sprintf("epoch %d: a rollback has begun", s.Fence)
	}
	p.fields(
		"certificate", cell{s.Target, bold}, "rotation", string(s.Rotation), "state", stateCell(s.State), "fence", fence,
		"candidate", s.Candidate.Fingerprint, "previous", s.Previous.Fingerprint,
		"published", strings.Join(s.Published, ", "), "visible", strings.Join(delivered, ", "), "outcome", s.Sentence,
	)
	p.stragglersTitled("CONSUMER", s.Consumers)
	steps := s.Forward
	if rollback {
		steps = s.Rollback
	}
	p.say("")
	switch {
	case !s.Open:
		p.say("no rotation is in hand: nothing to do")
	case len(steps) == 0 && rollback:
		p.say("it cannot go back any more: only forward is possible")
	case len(steps) == 0:
		p.say("it can only go back: run it with --rollback")
	default:
		p.say("rescue would")
		for n, step := range steps {
			p.say("  %d. %s", n+1, step)
		}
	}
}
