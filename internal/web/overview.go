package web

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/workflows/rotation"
)

// overview is the first page.
type overview struct {
	Certificates []certificateRow
	More         bool // there are more certificates than are shown
	Running      []runningRow
	Ended        []api.Rotation
	Stragglers   []stragglerRow
}

type certificateRow struct {
	api.Certificate
	Stragglers int
	Overdue    bool
	Soon       bool // the certificate ends within a tenth of its life, or has
	Running    bool
}

// runningRow is a rotation under way: what the record says, and what its workflow says now.
type runningRow struct {
	Target   string
	ID       activities.RotationID // empty: nothing was opened yet
	Workflow string
	Run      string
	State    activities.State
	Started  time.Time
	Waiting  string
	Since    time.Time
	Until    time.Time
	Paused   *rotation.Request
	Note     string
	Silent   string // why the workflow itself does not answer
	Missing  []activities.Straggler
}

type stragglerRow struct {
	Target string
	activities.Straggler
}

// Bounds of one page.
const (
	mostAsked    = 50 // workflows that are asked what they do
	askPatience  = 3 * time.Second
	askAtOnce    = 8
	mostFinished = 10
)

func (s *Site) overview(w http.ResponseWriter, r *http.Request) {
	shown, err := s.gather(r.Context())
	if err != nil {
		s.failed(w, r, err)
		return
	}
	s.show(w, http.StatusOK, "overview.html", page{Title: "Overview", User: userOf(r), Refresh: true, Body: shown})
}

func (s *Site) gather(ctx context.Context) (overview, error) {
	var shown overview
	certificates, err := s.parts.API.Certificates(ctx, url.Values{"limit": {"200"}})
	if err != nil {
		return shown, err
	}
	open, err := s.parts.API.Rotations(ctx, url.Values{"open": {"true"}, "limit": {"200"}})
	if err != nil {
		return shown, err
	}
	recent, err := s.parts.API.Rotations(ctx, url.Values{"limit": {"60"}})
	if err != nil {
		return shown, err
	}
	shown.More = certificates.Cursor != ""
	for _, r := range recent.Items {
		if !r.Ended.IsZero() && len(shown.Ended) < mostFinished {
			shown.Ended = append(shown.Ended, r)
		}
	}
	shown.Running = s.running(ctx, certificates.Items, open.Items)
	missing := map[string]int{}
	under := map[string]bool{}
	for _, row := range shown.Running {
		under[row.Target] = true
		missing[row.Target] += len(row.Missing)
		for _, straggler := range row.Missing {
			shown.Stragglers = append(shown.Stragglers, stragglerRow{row.Target, straggler})
		}
	}
	now := s.parts.Now()
	for _, c := range certificates.Items {
		tenth := c.NotAfter.Sub(c.NotBefore) / 10
		shown.Certificates = append(shown.Certificates, certificateRow{
			Certificate: c, Stragglers: missing[c.Name], Running: under[c.Name],
			Overdue: !c.DueAt.IsZero() && !c.Observed && now.Sub(c.DueAt) > 5*time.Minute,
			Soon:    !c.NotAfter.IsZero() && c.NotAfter.Sub(now) < tenth,
		})
	}
	return shown, nil
}

// running joins open rotation records with what their workflows say. A certificate that is due may have
// a workflow that waits for its window before anything is opened; it is asked too.
func (s *Site) running(ctx context.Context, certificates []api.Certificate, open []api.Rotation) []runningRow {
	rows := map[string]*runningRow{}
	for _, r := range open {
		if known := rows[r.Target]; known != nil && known.Started.After(r.Started) {
			continue
		}
		rows[r.Target] = &runningRow{Target: r.Target, ID: r.ID, Workflow: r.Workflow, Run: r.Run, State: r.State,
			Started: r.Started, Missing: r.Stragglers}
	}
	asked := slices.Sorted(maps.Keys(rows))
	for _, c := range certificates {
		if rows[c.Name] == nil && !c.DueAt.IsZero() && c.DueAt.Before(s.parts.Now()) {
			asked = append(asked, c.Name)
		}
	}
	asked = asked[:min(len(asked), mostAsked)]
	for target, live := range s.ask(ctx, asked) {
		row := rows[target]
		switch {
		case live.Error != "" && row != nil:
			row.Silent = live.Error
		case live.Status == "running" && live.Error == "":
			rows[target] = cmp.Or(row, &runningRow{Target: target, Workflow: rotation.WorkflowID(target)})
			rows[target].join(live.State)
		}
	}
	var list []runningRow
	for _, target := range slices.Sorted(maps.Keys(rows)) {
		list = append(list, *rows[target])
	}
	return list
}

// join takes over what the workflow says, which is newer than the record.
func (row *runningRow) join(state rotation.State) {
	row.ID = cmp.Or(row.ID, state.Plan.Rotation)
	row.State = cmp.Or(state.State, row.State)
	row.Waiting, row.Since, row.Until = state.Waiting, state.WaitSince, state.WaitUntil
	row.Paused, row.Note, row.Missing = state.Paused, state.Note, state.Stragglers
}

// ask asks workflows what they do, some at a time. One that does not answer is left out.
func (s *Site) ask(ctx context.Context, targets []string) map[string]api.Live {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	var mu sync.Mutex
	answers := map[string]api.Live{}
	var group errgroup.Group
	group.SetLimit(askAtOnce)
	for _, target := range targets {
		group.Go(func() error {
			live, err := s.parts.API.Live(ctx, target, "")
			if err != nil {
				if activities.KindOf(err) == activities.NotFound {
					return nil
				}
				live.Error = "the workflow did not answer: " + err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			answers[target] = live
			return nil
		})
	}
	group.Wait() // no function returns an error
	return answers
}

// certificatePage shows one certificate.
type certificatePage struct {
	api.Certificate
	Rotations []api.Rotation
}

func (s *Site) certificate(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	certificate, err := s.parts.API.Certificate(r.Context(), name)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	rotations, err := s.parts.API.Rotations(r.Context(), url.Values{"target": {name}, "limit": {"20"}})
	if err != nil {
		s.failed(w, r, err)
		return
	}
	s.show(w, http.StatusOK, "certificate.html", page{
		Title: name, User: userOf(r), Refresh: true, Body: certificatePage{certificate, rotations.Items},
	})
}

// rotationPage shows one rotation; Live is what its workflow says while it is open.
type rotationPage struct {
	api.Rotation
	Live *runningRow
}

func (s *Site) rotation(w http.ResponseWriter, r *http.Request) {
	record, err := s.parts.API.Rotation(r.Context(), r.PathValue("id"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	shown := rotationPage{Rotation: record}
	if record.Ended.IsZero() {
		rows := s.running(r.Context(), nil, []api.Rotation{record})
		shown.Live = &rows[0]
		shown.State, shown.Stragglers = rows[0].State, rows[0].Missing
	}
	s.show(w, http.StatusOK, "rotation.html", page{
		Title: string(record.ID), User: userOf(r), Refresh: record.Ended.IsZero(), Body: shown,
	})
}
