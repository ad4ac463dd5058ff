package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
)

// adoption is what a look at an observed certificate shows.
type adoption struct {
	Certificate api.Certificate    `json:"certificate"`
	Verdict     activities.Verdict `json:"verdict"`
	Waves       []activities.Wave  `json:"waves"`
	Sentence    string             `json:"sentence,omitempty"`
}

func adoptCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "adopt NAME",
		Short: "Look at an observe-only certificate: its consumers, its due date, what would be done",
		Long: `Looks once at a certificate that is declared with observe: true and says what castellan
would do with it. Nothing is written at the target. To let castellan rotate it, remove
observe: true from its declaration and restart castellan.`,
		Example: `  castellan adopt payments`,
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			found, err := adopt(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			p := f.printer(cmd)
			if p.json {
				return p.value(found)
			}
			p.adoption(found)
			return nil
		},
	}
}

// adopt starts the rotation workflow, which declines for an observed certificate and says why and what.
func adopt(ctx context.Context, client *api.Client, name string) (adoption, error) {
	shown, err := client.Certificate(ctx, name)
	if activities.KindOf(err) == activities.NotFound && err != nil {
		return adoption{}, withHint(err, declareObserved(name))
	}
	if err != nil {
		return adoption{}, explained(err)
	}
	if !shown.Observed {
		return adoption{}, withHint(activities.Errorf(activities.Conflict, "certificate %q is not adopted observe-only: castellan rotates it", name), declareObserved(name))
	}
	started, err := client.Rotate(ctx, name, api.RotateRequest{Reason: "adopt: a look, nothing else", Scheduled: true})
	if err != nil {
		return adoption{}, explained(err)
	}
	w := &watcher{client: client, target: name, run: started.Run}
	live, err := w.end(ctx, func(api.Live) {})
	if err != nil {
		return adoption{}, err
	}
	if live.Result == nil {
		return adoption{}, activities.Errorf(activities.Failed, "look at %q: %s", name, live.Error)
	}
	if shown, err = client.Certificate(ctx, name); err != nil {
		return adoption{}, explained(err)
	}
	return adoption{Certificate: shown, Verdict: live.Result.Verdict, Waves: live.Result.Waves, Sentence: live.Result.Sentence}, nil
}

func declareObserved(name string) string {
	return fmt.Sprintf("to have it watched and never changed, declare certificates.%s with `observe: true` in the configuration and restart castellan", name)
}

func (p *printer) adoption(a adoption) {
	p.certificate(a.Certificate)
	p.say("")
	due := text("no")
	if a.Verdict.Due {
		due = cell{"yes", yellow}
	}
	p.fields("due now", due, "why", a.Verdict.Sentence, "due at", p.when(a.Verdict.DueAt), "not before", p.when(a.Verdict.Wait), "ends by itself", p.when(a.Verdict.Deadline))
	p.say("")
	p.say("a rotation would")
	for i, wave := range a.Waves {
		name := "then"
		if i == 0 {
			name = "first"
		}
		prove := "no consumer"
		if len(wave.Consumers) > 0 {
			prove = "that " + strings.Join(wave.Consumers, ", ") + " use it"
		}
		p.say("  %d. %s publish through %s, and prove %s", i+1, name, strings.Join(wave.Deliveries, ", "), prove)
	}
	p.say("  %d. retire the previous key", len(a.Waves)+1)
	p.say("nothing was changed; remove observe: true from the declaration to let castellan do it")
}
