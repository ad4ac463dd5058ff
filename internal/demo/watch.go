package demo

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
)

// sight is what the watcher last saw of one target.
type sight struct {
	rotation activities.RotationID
	live     api.Live
	ends     time.Time
}

// straggle is a straggler as castellan named it.
type straggle struct {
	rotation activities.RotationID
	who      activities.Straggler
}

// watcher asks castellan's API what happens, for the screen and for the acts.
type watcher struct {
	api    *api.Client
	fires  func(context.Context) (int64, error)
	screen *screen
	load   func() Count

	mu       sync.Mutex
	sights   map[string]sight
	open     map[string]activities.RotationID
	named    *straggle // the first straggler that was named
	fired    int64
	rotation map[activities.RotationID]api.Rotation
}

// run looks until the context ends. What cannot be seen now is looked at again: castellan-dev ends with
// the show.
func (w *watcher) run(ctx context.Context) {
	for round := 0; ctx.Err() == nil; round++ {
		w.rotations(ctx)
		if round%5 == 0 {
			w.seldom(ctx)
		}
		w.screen.show(w.board())
		if round%40 == 39 {
			w.screen.tick()
		}
		select {
		case <-ctx.Done():
		case <-time.After(400 * time.Millisecond):
		}
	}
}

// rotations asks the workflows of all rotations that are open, and those that were a moment ago.
func (w *watcher) rotations(ctx context.Context) {
	list, err := w.api.Rotations(ctx, url.Values{"open": {"true"}, "limit": {"100"}})
	if err != nil {
		return
	}
	open := map[string]activities.RotationID{}
	for _, r := range list.Items {
		open[r.Target] = r.ID
	}
	w.mu.Lock()
	asked := maps.Clone(w.open)
	w.open = open
	w.mu.Unlock()
	maps.Copy(asked, open)
	w.mu.Lock()
	for target, newest := range w.newest() {
		if w.sights[target].rotation != newest.ID {
			asked[target] = newest.ID // it began and ended between two looks
		}
	}
	w.mu.Unlock()
	for _, target := range slices.Sorted(maps.Keys(asked)) {
		if live, err := w.api.Live(ctx, target, ""); err == nil && live.Plan.Rotation != "" {
			w.note(target, live)
		}
	}
}

// newest returns the last rotation of every target. The lock is held.
func (w *watcher) newest() map[string]api.Rotation {
	newest := map[string]api.Rotation{}
	for _, r := range w.rotation {
		if r.Epoch > newest[r.Target].Epoch {
			newest[r.Target] = r
		}
	}
	return newest
}

// note remembers what a workflow said, and shows what changed.
func (w *watcher) note(target string, live api.Live) {
	id := live.Plan.Rotation
	w.mu.Lock()
	before := w.sights[target]
	w.sights[target] = sight{rotation: id, live: live, ends: before.ends}
	var fresh []activities.Straggler
	for _, straggler := range live.Stragglers {
		known := before.rotation == id && slices.ContainsFunc(before.live.Stragglers, func(s activities.Straggler) bool {
			return s.Address == straggler.Address && s.Standing == straggler.Standing
		})
		if known {
			continue
		}
		fresh = append(fresh, straggler)
		if w.named == nil && straggler.Consumer == straggling && straggler.Standing == activities.UsesPrevious {
			w.named = &straggle{id, straggler}
		}
	}
	w.mu.Unlock()
	if before.rotation != id || before.live.State.State != live.State.State {
		w.screen.event("%s %s (%s)", id, live.State.State, live.Trigger.Source)
	}
	for _, straggler := range fresh {
		w.screen.event("%s straggler %s", id, describeStraggler(straggler))
	}
}

func describeStraggler(s activities.Straggler) string {
	text := s.Consumer + " at " + s.Address + " uses the " + string(s.Standing)
	if s.Serves != "" {
		text += " " + short(s.Serves)
	}
	if !s.Since.IsZero() {
		text += " since " + s.Since.UTC().Format(time.TimeOnly)
	}
	return text
}

// seldom asks what needs no haste.
func (w *watcher) seldom(ctx context.Context) {
	fired, fireErr := w.fires(ctx)
	list, err := w.api.Certificates(ctx, url.Values{"limit": {"100"}})
	all, allErr := w.api.Rotations(ctx, url.Values{"limit": {"500"}})
	w.mu.Lock()
	defer w.mu.Unlock()
	if fireErr == nil {
		w.fired = fired
	}
	if err == nil {
		for _, c := range list.Items {
			s := w.sights[c.Name]
			s.ends = c.NotAfter
			w.sights[c.Name] = s
		}
	}
	if allErr == nil {
		for _, r := range all.Items {
			w.rotation[r.ID] = r
		}
	}
}

// board makes the picture.
func (w *watcher) board() board {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := board{Fires: w.fired, Load: w.load()}
	for _, name := range targets() {
		s := w.sights[name]
		r := row{Name: name, Rotation: string(s.rotation), State: string(s.live.State.State), Candidate: s.live.Candidate.KeyID, Ends: s.ends}
		if s.live.Result != nil {
			r.State = string(s.live.Result.State)
		} else {
			for _, straggler := range s.live.Stragglers {
				r.Stragglers = append(r.Stragglers, describeStraggler(straggler))
			}
		}
		b.Targets = append(b.Targets, r)
	}
	return b
}

// idle reports whether no rotation of the target is open.
func (w *watcher) idle(target string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, open := w.open[target]
	return !open
}

// straggler returns the first straggler that was named.
func (w *watcher) straggler() *straggle {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.named
}

// outcomes counts the rotations that a filter lets through, by state.
func (w *watcher) outcomes(keep func(api.Rotation) bool) map[activities.State]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := map[activities.State]int{}
	for _, r := range w.rotation {
		if keep(r) {
			counts[r.State]++
		}
	}
	return counts
}
