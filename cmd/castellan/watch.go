package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
)

func watchCommand(f *flags) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "watch NAME",
		Short: "Follow a certificate's rotation to its end",
		Long: `Shows where the rotation stands, who is not proven to use the candidate since when, and what
is waited for since when and until when. On a terminal the picture is redrawn in place;
elsewhere a line is printed when something changes; with -o json, a JSON object per line.

The exit code is 0 when it ends as RETIRED, PROVEN_DEAD, TESTED or NOT_DUE, and 1 otherwise.
Interrupting watch does not touch the rotation.`,
		Example: `  castellan rotations watch payments
  castellan rotations watch payments --once          what it does at this moment
  castellan rotations watch payments -o json | jq -r .state`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client(cmd.Context())
			if err != nil {
				return err
			}
			w := &watcher{client: client, printer: f.printer(cmd), target: args[0]}
			if once {
				err = w.glance(cmd.Context())
			} else {
				err = w.follow(cmd.Context())
			}
			if err != nil && activities.KindOf(err) == activities.NotFound {
				return withHint(err, "start one with `castellan certs rotate "+args[0]+"`")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "look once, and exit with 0 whatever there is to see")
	return cmd
}

// watcher follows one rotation.
type watcher struct {
	client  *api.Client
	printer *printer
	target  string
	run     string // empty: the latest
	drawn   int    // lines of the last picture on a terminal
	last    string // what was printed last
}

// How often the workflow is asked. It answers from memory; a person sees no difference below this.
const (
	lookEvery = 250 * time.Millisecond
	patience  = 30 * time.Second // with an API that does not answer, as during its restart
)

// follow shows the rotation until it ends, and fails when it ends badly.
func (w *watcher) follow(ctx context.Context) error {
	live, err := w.end(ctx, w.show)
	if err != nil {
		return err
	}
	if live.Result == nil {
		return activities.Errorf(activities.Failed, "rotation of %q %s: %s", w.target, live.Status, dash(live.Error))
	}
	switch live.Result.State {
	case activities.Retired, activities.ProvenDead, activities.Tested, activities.NotDue:
		return nil
	}
	return answerError{fmt.Sprintf("rotation of %q ended as %s: %s", w.target, live.Result.State, live.Result.Sentence)}
}

// glance shows the rotation as it is now.
func (w *watcher) glance(ctx context.Context) error {
	live, err := w.client.Live(ctx, w.target, w.run)
	if err != nil {
		return explained(err)
	}
	w.show(live)
	return nil
}

// end looks again and again until the rotation ends, and returns the last look.
func (w *watcher) end(ctx context.Context, show func(api.Live)) (api.Live, error) {
	var unanswered time.Time
	for {
		live, err := w.client.Live(ctx, w.target, w.run)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return live, ctx.Err()
		case err == nil:
			unanswered = time.Time{}
			show(live)
			if live.Status == "continued as new" {
				w.run = "" // its successor is the latest
			} else if live.Status != "running" {
				return live, nil
			}
		case activities.KindOf(err) != activities.Transient:
			return live, err
		case unanswered.IsZero():
			unanswered = now
		case now.Sub(unanswered) > patience:
			return live, explained(err)
		}
		select {
		case <-ctx.Done():
			return live, ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// show prints a look: the whole picture on a terminal, otherwise what has changed.
func (w *watcher) show(live api.Live) {
	p := w.printer
	switch {
	case p.json:
		w.showJSON(live)
	case p.terminal:
		width, height := p.size()
		lines := w.picture(live)
		if live.Result == nil { // the last picture stays, so it may be as large as it is
			lines = fit(lines, width, height)
		}
		w.redraw(lines)
	default:
		for _, line := range w.news(live) {
			p.line(line)
		}
	}
}

func (w *watcher) showJSON(live api.Live) {
	key := w.key(live)
	if key == w.last {
		return
	}
	w.last = key
	_ = w.printer.event(live) // the reader of the pipe is gone: the rotation goes on without it
}

// key changes when something worth telling has changed.
func (w *watcher) key(live api.Live) string {
	s := live.State
	var parts []string
	for _, missing := range s.Stragglers {
		parts = append(parts, missing.Consumer, missing.Address, string(missing.Standing), missing.Serves)
	}
	return fmt.Sprint(live.Status, s.State, s.Plan.Rotation, s.Candidate.Fingerprint, s.Wave, s.Placed, s.Waiting, s.WaitUntil, s.Paused, s.Abort, s.Note, live.Error, parts)
}

// redraw replaces the last picture.
func (w *watcher) redraw(lines []string) {
	var out strings.Builder
	if w.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA\x1b[J", w.drawn)
	}
	for _, line := range lines {
		out.WriteString(line + "\n")
	}
	w.drawn = len(lines)
	fmt.Fprint(w.printer.out, out.String())
}

// phases are the steps of the way forward, as the phase line shows them.
var phases = []activities.State{
	activities.Planned, activities.Minted, activities.Set, activities.Tested, activities.Published, activities.Converged, activities.Retired,
}

// picture is what a terminal shows.
func (w *watcher) picture(live api.Live) []string {
	p, s := w.printer, live.State.State
	if live.Result != nil {
		s = live.Result.State
	}
	lines := []string{p.join([]cell{{w.title(live), bold}, stateCell(s), {w.wave(live), dim}})}
	var line []cell
	passed := true
	for _, phase := range phases {
		c := cell{strings.ToLower(string(phase)), dim}
		switch {
		case phase == s, phase == activities.Retired && s == activities.ProvenDead:
			c = cell{string(phase), cyan}
			passed = false
		case passed && forward(s):
			c.style = green
		}
		line = append(line, c)
	}
	if forward(s) {
		lines = append(lines, "  "+p.join(line))
	}
	for _, c := range w.rest(live) {
		lines = append(lines, "  "+p.join([]cell{c}))
	}
	return lines
}

func forward(s activities.State) bool {
	return s != "" && (!s.Ended() || s == activities.Retired || s == activities.ProvenDead)
}

func (w *watcher) title(live api.Live) string {
	if id := live.State.Plan.Rotation; id != "" {
		return string(id)
	}
	return w.target
}

func (w *watcher) wave(live api.Live) string {
	waves := len(live.State.Plan.Waves)
	if waves < 2 || live.State.State != activities.Published && live.State.State != activities.Tested {
		return ""
	}
	return fmt.Sprintf("wave %d of %d", min(live.State.Wave+1, waves), waves)
}

// rest is everything below the phase line.
func (w *watcher) rest(live api.Live) []cell {
	p, s := w.printer, live.State
	var cells []cell
	if s.Candidate.Fingerprint != "" {
		cells = append(cells, text("candidate %s, valid until %s", finger(s.Candidate.Fingerprint), stamp(s.Candidate.NotAfter)))
	}
	if s.Paused != nil {
		cells = append(cells, cell{fmt.Sprintf("paused by %s %s: %s", dash(s.Paused.Actor), p.when(s.Paused.At), dash(s.Paused.Reason)), yellow})
	}
	if s.Abort != nil {
		cells = append(cells, cell{fmt.Sprintf("abort asked for by %s %s: %s", dash(s.Abort.Actor), p.when(s.Abort.At), dash(s.Abort.Reason)), yellow})
	}
	if s.Waiting != "" {
		until := ""
		if !s.WaitUntil.IsZero() {
			until = ", until " + p.when(s.WaitUntil)
		}
		cells = append(cells, text("waiting for %s since %s%s", s.Waiting, p.when(s.WaitSince), until))
	}
	if s.Placed && s.Waiting == "" && len(s.Stragglers) == 0 && s.Wave < len(s.Plan.Waves) && live.Result == nil {
		cells = append(cells, text("looking whether %s use it", strings.Join(s.Plan.Waves[s.Wave].Consumers, ", ")))
	}
	for _, missing := range s.Stragglers {
		cells = append(cells, cell{w.straggler(missing), standingCell(missing.Standing).style})
	}
	if s.Note != "" {
		cells = append(cells, text("ignored: %s", s.Note))
	}
	if live.Error != "" {
		cells = append(cells, cell{live.Error, red})
	}
	if live.Result != nil {
		cells = append(cells, word(live.Result.Sentence))
		for _, missing := range live.Result.NotProvable {
			cells = append(cells, cell{"not provable: " + missing, yellow})
		}
	}
	return cells
}

func (w *watcher) straggler(s activities.Straggler) string {
	serves := ""
	if s.Serves != "" {
		serves = ", serves " + finger(s.Serves)
	}
	detail := ""
	if s.Detail != "" {
		detail = ": " + s.Detail
	}
	return fmt.Sprintf("straggler %s %s: %s%s since %s%s", s.Consumer, s.Address, s.Standing, serves, w.printer.when(s.Since), detail)
}

// news is what a look tells that the last one did not, in lines that begin with the time.
func (w *watcher) news(live api.Live) []cell {
	key := w.key(live)
	if key == w.last {
		return nil
	}
	w.last = key
	state := live.State.State
	if live.Result != nil {
		state = live.Result.State
	}
	at := stamp(w.printer.now())
	lines := []cell{word(strings.TrimSpace(fmt.Sprintf("%s %s %s %s", at, w.title(live), dash(string(state)), w.wave(live))))}
	for _, c := range w.rest(live) {
		lines = append(lines, text("%s   %s", at, c.text))
	}
	return lines
}
