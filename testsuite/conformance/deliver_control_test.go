package conformance

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// failures collects what a check complains of, instead of failing the test that holds the suite against
// a bad implementation.
type failures struct {
	testing.TB
	mutex sync.Mutex
	said  []string
}

func (f *failures) Errorf(format string, args ...any) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

func (f *failures) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// complaints runs a check to its end, which Fatalf may bring early.
func complaints(t *testing.T, check func(testing.TB)) []string {
	t.Helper()
	f := &failures{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		check(f)
	}()
	<-done
	return f.said
}

// shelf is a deliverer that keeps everything in memory. Its habits break one promise each.
type shelf struct {
	mutex   sync.Mutex
	visible deliver.Material
	last    deliver.Material // what castellan wrote last
	epoch   activities.Epoch
	undid   activities.Epoch
	kept    map[activities.Epoch]deliver.Material
	broken  bool

	noFence, noPrecondition, keepsNothing, keepsAgain, erasesNothing, erasesAll, restoresOverForeign bool
	blind, tears, leaks, repeats, deaf, oldEpoch                                                     bool
}

func (s *shelf) Observe(context.Context) (deliver.Visible, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.see(), nil
}

func (s *shelf) see() deliver.Visible {
	return deliver.Visible{
		Fingerprint: s.visible.Fingerprint, Chain: s.visible.Chain, Epoch: s.epoch, NotAfter: s.visible.NotAfter,
		Foreign: !s.blind && s.visible.Fingerprint != s.last.Fingerprint,
	}
}

func (s *shelf) Publish(ctx context.Context, m deliver.Material, expected string) (deliver.Visible, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := wellFormed(m); err != nil {
		if s.leaks {
			return deliver.Visible{}, activities.Errorf(activities.Invalid, "%w: %s", err, m.Key)
		}
		return deliver.Visible{}, err
	}
	switch {
	case s.broken:
		return deliver.Visible{}, activities.Errorf(activities.Transient, "the shelf is broken")
	case ctx.Err() != nil && !s.deaf:
		return deliver.Visible{}, activities.Errorf(activities.Transient, "%w", ctx.Err())
	case !s.noFence && (m.Epoch < s.epoch || m.Epoch == s.epoch && m.Fingerprint != s.last.Fingerprint):
		return deliver.Visible{}, activities.Errorf(activities.Fenced, "epoch %d has been here", s.epoch)
	case m.Fingerprint == s.visible.Fingerprint && !s.repeats && !s.keepsAgain:
		return s.see(), nil
	case !s.noPrecondition && m.Fingerprint != s.visible.Fingerprint && expected != s.visible.Fingerprint,
		s.repeats && expected != s.visible.Fingerprint:
		return deliver.Visible{}, activities.Errorf(activities.Conflict, "not as expected")
	}
	if !s.keepsNothing && s.visible.Fingerprint != "" {
		s.kept[m.Epoch] = s.visible
	}
	s.put(m)
	s.epoch = m.Epoch
	return s.see(), nil
}

// wellFormed checks that material fits together.
func wellFormed(m deliver.Material) error {
	fingerprint := fingerprintOfPEM(m.Chain)
	if fingerprint == "" || fingerprint != m.Fingerprint || m.Epoch == 0 || !fits(m.Chain, m.Key) {
		return activities.Errorf(activities.Invalid, "material does not fit")
	}
	return nil
}

func (s *shelf) put(m deliver.Material) {
	if s.tears {
		s.visible.Chain = m.Chain
		s.mutex.Unlock()
		runtime.Gosched()
		s.mutex.Lock()
	}
	s.visible, s.last = m, m
}

func (s *shelf) Restore(_ context.Context, of, under activities.Epoch) (deliver.Visible, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	m, ok := s.kept[of]
	switch {
	case !s.noFence && (under < s.epoch || under == s.epoch && s.undid != of):
		return deliver.Visible{}, activities.Errorf(activities.Fenced, "epoch %d has been here", s.epoch)
	case !ok:
		return deliver.Visible{}, activities.Errorf(activities.NotFound, "nothing was kept")
	case !s.restoresOverForeign && s.visible.Fingerprint != s.last.Fingerprint:
		return deliver.Visible{}, activities.Errorf(activities.Conflict, "foreign")
	}
	s.put(m)
	s.undid = of
	if !s.oldEpoch {
		s.epoch = under
	}
	return s.see(), nil
}

func (s *shelf) Retire(_ context.Context, epoch activities.Epoch) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for e := range s.kept {
		if e <= epoch && !s.erasesNothing || s.erasesAll {
			delete(s.kept, e)
		}
	}
	return nil
}

func (s *shelf) delivery() Delivery {
	s.kept = map[activities.Epoch]deliver.Material{}
	return Delivery{
		Deliverer: s,
		Another:   func() deliver.Deliverer { return s },
		Read: func() ([]byte, []byte, error) {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			return s.visible.Chain, s.visible.Key, nil
		},
		Foreign: func(chain, key []byte) error {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			s.visible = deliver.Material{Fingerprint: fingerprintOfPEM(chain), Chain: chain, Key: key}
			return nil
		},
		Kept: func() ([]byte, error) {
			var all []byte
			for _, m := range s.kept {
				all = append(all, m.Key...)
			}
			return all, nil
		},
		Break: func() func() { s.broken = true; return func() { s.broken = false } },
	}
}

// TestTheDelivererSuiteCatches holds the suite against a deliverer with one bad habit each.
func TestTheDelivererSuiteCatches(t *testing.T) {
	for habit, c := range map[string]struct {
		shelf    *shelf
		promises []string
	}{
		"none": {&shelf{}, nil},
		"ignores the fence": {&shelf{noFence: true}, []string{
			"an older epoch is fenced and changes nothing", "another certificate under a used epoch is fenced",
			"a late publication after a restore is fenced", "a late restore is fenced",
		}},
		"overwrites whatever it finds": {&shelf{noPrecondition: true}, []string{
			"a foreign writer's change is a conflict and stays", "content of others is adopted under its fingerprint",
		}},
		"keeps nothing": {&shelf{keepsNothing: true}, []string{
			"a restore brings the previous back under a newer epoch", "retiring erases the previous key and nothing else",
		}},
		"keeps the candidate as the previous when repeated": {&shelf{keepsAgain: true}, []string{
			"a lost reply does not lose what was there before",
		}},
		"stumbles over a repetition":      {&shelf{repeats: true}, []string{"publishing again after a lost reply changes nothing"}},
		"erases nothing":                  {&shelf{erasesNothing: true}, []string{"retiring erases the previous key and nothing else"}},
		"erases everything":               {&shelf{erasesAll: true}, []string{"retiring an older epoch keeps what a newer one needs"}},
		"restores over a foreign writer":  {&shelf{restoresOverForeign: true}, []string{"a restore leaves a foreign writer's change alone"}},
		"does not notice foreign writers": {&shelf{blind: true}, []string{"a foreign writer's change is observed as foreign"}},
		"changes certificate and key one after the other": {&shelf{tears: true}, []string{
			"readers never see a certificate with another one's key",
		}},
		"tells the key":                       {&shelf{leaks: true}, []string{"material that does not fit together is refused without a leak"}},
		"does not hear that it was cancelled": {&shelf{deaf: true}, []string{"a cancelled publication changes nothing"}},
		"restores without raising the epoch":  {&shelf{oldEpoch: true}, []string{"a restore brings the previous back under a newer epoch"}},
	} {
		t.Run(habit, func(t *testing.T) {
			run := func(promise string) []string {
				check, ok := delivererChecks[promise]
				if !ok {
					t.Fatalf("the suite has no promise %q", promise)
				}
				fresh := c.shelf.fresh()
				return complaints(t, func(tb testing.TB) {
					check(&deliveryCase{TB: tb, Delivery: fresh.delivery(), ca: NewAuthority(t, "control"), ctx: t.Context()})
				})
			}
			for _, promise := range c.promises {
				if len(run(promise)) == 0 {
					t.Errorf("not caught by %q", promise)
				}
			}
			if c.promises == nil {
				for promise := range delivererChecks {
					if said := run(promise); len(said) > 0 {
						t.Errorf("a good deliverer fails %q: %v", promise, said)
					}
				}
			}
		})
	}
}

// fresh returns an empty shelf with the same habits.
func (s *shelf) fresh() *shelf {
	return &shelf{
		noFence: s.noFence, noPrecondition: s.noPrecondition, keepsNothing: s.keepsNothing, keepsAgain: s.keepsAgain,
		erasesNothing: s.erasesNothing, erasesAll: s.erasesAll, restoresOverForeign: s.restoresOverForeign,
		blind: s.blind, tears: s.tears, leaks: s.leaks, repeats: s.repeats, deaf: s.deaf, oldEpoch: s.oldEpoch,
	}
}
