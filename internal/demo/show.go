package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/state"
	"castellan.dev/schedules"
)

// Options say how the show runs.
type Options struct {
	Self      string   // the castellan-dev binary
	Castellan string   // the castellan binary, whose worker is killed
	State     string   // state directory, which is kept; empty: a temporary one
	Stay      bool     // keep running after the summary until the context ends
	Out       *os.File // where the show is seen
}

// show is a show that runs.
type show struct {
	options   Options
	layout    layout
	addresses addresses
	children  *children
	screen    *screen
	endpoints state.Endpoints
	worker    *child
	api       *api.Client
	load      *Load
	watcher   *watcher
	keys      *keys
	outcome   outcome

	victim victim // the rotation whose worker is killed
	pinned []byte // an early export: an auditor's key and checkpoint
}

// outcome is what the summary says besides the counts.
type outcome struct {
	killed, straggler, revocation, verified, tampered, leak string
}

// ErrFailed means that something of the show did not happen, or went wrong.
var ErrFailed = errors.New("the demo failed")

// Run plays the whole show, prints the summary and leaves nothing behind. The error says what failed.
func Run(ctx context.Context, options Options) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	s, err := newShow(options, fail)
	if err != nil {
		return err
	}
	defer func() {
		s.children.stop()
		s.addresses.close()
		if err := s.layout.remove(); err != nil {
			fmt.Fprintln(options.Out, "remove state directory:", err)
		}
	}()
	background, end := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer end()
	s.screen.open()
	err = s.play(ctx, func(run func(context.Context)) { group.Go(func() { run(background) }) })
	s.screen.close()
	if options.Stay && ctx.Err() == nil {
		s.summary(err)
		fmt.Fprintln(options.Out, "\nEverything keeps running. Ctrl-C ends it.")
		<-ctx.Done()
		end()
		group.Wait()
		return cmp.Or(err, s.unfailed())
	}
	end()
	group.Wait() // the last probes count, too
	err = cmp.Or(err, s.unfailed())
	s.summary(err)
	return err
}

// unfailed is an error when a probe failed.
func (s *show) unfailed() error {
	if s.load == nil {
		return nil
	}
	if c := s.load.Count(); c.Failed > 0 {
		return fmt.Errorf("%w: %d of %d probes failed, first: %s", ErrFailed, c.Failed, c.Probes, c.Failure)
	}
	return nil
}

func newShow(options Options, fail context.CancelCauseFunc) (*show, error) {
	layout, err := newLayout(options.State)
	if err != nil {
		return nil, err
	}
	s := &show{options: options, layout: layout, children: &children{logs: layout.logs(), fail: fail}, keys: newKeys(layout)}
	s.screen = &screen{out: options.Out, terminal: term.IsTerminal(int(options.Out.Fd())), began: time.Now(), size: func() (int, int) {
		width, height, err := term.GetSize(int(options.Out.Fd()))
		if err != nil {
			return 100, 40
		}
		return width, height
	}}
	for _, a := range acts() {
		s.screen.acts = append(s.screen.acts, line{title: a.title})
	}
	if s.addresses, err = listen(); err == nil {
		err = layout.write(s.addresses)
	}
	if err != nil {
		s.addresses.close()
		return nil, errors.Join(err, layout.remove())
	}
	return s, nil
}

// play plays the acts in turn. The first that does not happen ends the show.
func (s *show) play(ctx context.Context, background func(func(context.Context))) error {
	for i, a := range acts() {
		s.screen.act(i, playing, "")
		limited, cancel := context.WithTimeoutCause(ctx, a.limit, fmt.Errorf("not seen within %s", a.limit))
		text, err := a.play(limited, s)
		cancel()
		if err != nil {
			if ctx.Err() != nil { // interrupted, or a child ended: that is why nothing more was seen
				err = errors.New(context.Cause(ctx).Error())
			}
			s.screen.act(i, failed, err.Error())
			return fmt.Errorf("%w: %s: %w", ErrFailed, a.title, err)
		}
		s.screen.act(i, seen, text)
		for _, run := range a.begins(s) {
			background(run)
		}
	}
	return nil
}

// connect reaches castellan as the operator: its API, and the engine for what the schedule does.
func (s *show) connect(ctx context.Context) error {
	logger := slog.New(slog.DiscardHandler)
	found, err := installation.Open("", s.layout.state, logger)
	if err != nil {
		return err
	}
	if s.api, err = found.API(ctx, identity.Operator); err != nil {
		return err
	}
	engine, _, err := found.Engine(ctx, identity.Operator)
	if err != nil {
		return err
	}
	sweep := engine.ScheduleClient().GetHandle(ctx, schedules.Prefix+schedules.Sweep)
	fires := func(ctx context.Context) (int64, error) {
		described, err := sweep.Describe(ctx)
		if err != nil {
			return 0, err
		}
		return int64(described.Info.NumActions), nil
	}
	probe, err := request(s.addresses.orders.Addr().String(), s.endpoints.CA.Root)
	if err != nil {
		return err
	}
	s.load = NewLoad(interval, probe)
	s.watcher = &watcher{
		api: s.api, fires: fires, screen: s.screen, load: s.load.Count,
		sights: map[string]sight{}, rotation: map[activities.RotationID]api.Rotation{},
	}
	return nil
}

// interval is how often a connection is opened.
const interval = 25 * time.Millisecond

// summary prints how it went, and where to look.
func (s *show) summary(err error) {
	out := s.options.Out
	fmt.Fprintln(out)
	var rows [][2]string
	if s.load != nil {
		c := s.load.Count()
		rows = append(rows,
			[2]string{"probes", fmt.Sprintf("%d fresh connections with one request each, no retry, no resumption", c.Probes)},
			[2]string{"failed", strings.TrimSpace(fmt.Sprintf("%d %s", c.Failed, c.Failure))},
			[2]string{"interval", fmt.Sprintf("%s between two probes; %d were not begun because %d were under way", c.Interval().Round(time.Millisecond), c.Skipped, maxUnderWay)},
			[2]string{"longest gap", c.Longest.Round(time.Millisecond).String() + " between two successful probes"},
			[2]string{"rotations", s.counts()})
	}
	for _, r := range [][2]string{
		{"worker killed", s.outcome.killed}, {"straggler", s.outcome.straggler}, {"revocation", s.outcome.revocation},
		{"evidence", s.outcome.verified}, {"tampered copy", s.outcome.tampered}, {"keys leaked", s.outcome.leak},
	} {
		if r[1] == "" {
			r[1] = "did not happen"
		}
		rows = append(rows, r)
	}
	rows = append(rows, [2]string{"took", time.Since(s.screen.began).Round(time.Second).String()})
	table(out, rows)
	fmt.Fprintln(out)
	s.where()
	if err == nil {
		fmt.Fprintln(out, "\nEvery act happened, and no handshake failed.")
	}
}

// where prints the addresses, and what is left to look at.
func (s *show) where() {
	rows := [][2]string{
		{"web page", s.endpoints.Web}, {"API", s.endpoints.API}, {"Temporal", s.endpoints.Engine + ", namespace " + s.endpoints.Namespace},
		{"CA", s.endpoints.CA.URL},
	}
	if s.options.Stay {
		if link := s.signIn(); link != "" {
			rows = append(rows, [2]string{"sign in", link + " (makes the first user, once)"})
		}
		rows = append(rows, [2]string{"look around", s.options.Castellan + " certs list --state " + string(s.layout.state)})
	}
	if s.options.Stay || !s.layout.fresh {
		rows = append(rows, [][2]string{{"state", string(s.layout.state)}, {"logs", s.layout.logs()}}...)
	}
	table(s.options.Out, rows)
}

// signIn returns the link with which castellan-dev lets the first user in; it says so when it starts.
func (s *show) signIn() string {
	text, err := os.ReadFile(s.children.log("castellan-dev"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), "makes the first user")
	_, rest, _ = strings.Cut(rest, "\n")
	link, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	if !strings.HasPrefix(link, s.endpoints.Web) {
		return ""
	}
	return link
}

// counts says how the rotations ended.
func (s *show) counts() string {
	counts := s.watcher.outcomes(func(api.Rotation) bool { return true })
	var parts []string
	open := 0
	for _, state := range slices.Sorted(maps.Keys(counts)) {
		if !state.Ended() {
			open += counts[state]
			continue
		}
		parts = append(parts, fmt.Sprintf("%d %s", counts[state], state))
	}
	if open > 0 {
		parts = append(parts, fmt.Sprintf("%d under way", open))
	}
	return strings.Join(parts, ", ")
}
