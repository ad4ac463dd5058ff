package conformance

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"
)

// dueNames lists what is due, page by page.
func (s *serviceDB) dueNames(at time.Time, limit int) (names []string) {
	s.Helper()
	for cursor := ""; ; {
		page, next, err := s.db.Due(s.Context(), at, limit, cursor)
		s.must(err)
		if len(page) > limit {
			s.Fatalf("a page of %d, want at most %d", len(page), limit)
		}
		for _, due := range page {
			names = append(names, due.Target)
		}
		if cursor = next; next == "" {
			return names
		}
	}
}

// dueAt tells when a target becomes due.
func (s *serviceDB) dueAt(name string, at time.Time) {
	s.Helper()
	s.project(record.Entry{Target: name, Phase: record.Outcome, At: s.noon, Facts: map[string]string{record.FactDueAt: stamp(at)}})
}

func (s *serviceDB) due() {
	s.declare("a", "b", "c", "d", "e")
	s.dueAt("a", s.noon.Add(3*time.Hour))
	s.dueAt("b", s.noon.Add(time.Hour))
	s.dueAt("c", s.noon.Add(2*time.Hour))
	s.dueAt("d", s.noon.Add(time.Hour))
	s.dueAt("e", s.noon.Add(100*time.Hour))
	s.dueAt("undeclared", s.noon)
	for _, limit := range []int{1, 2, 3, 4, 100} {
		s.same(fmt.Sprint("due in pages of ", limit), []string{"b", "d", "c", "a"}, s.dueNames(s.noon.Add(3*time.Hour), limit))
	}
	s.same("due an hour later", []string{"b", "d"}, s.dueNames(s.noon.Add(time.Hour), 10))
	s.same("due at noon", 0, len(s.dueNames(s.noon, 10)))
	if _, _, err := s.db.Due(s.Context(), s.noon, 1, "nonsense"); activities.KindOf(err) != activities.Invalid {
		s.Errorf("a foreign cursor: %v, want invalid", err)
	}
}

// dueIndex fills an inventory of 10,000 targets of which 1 % is due and looks at the plan of the sweep.
func (s *serviceDB) dueIndex() {
	const all, due = 10_000, 100
	ctx := s.Context()
	declared := make([]servicedb.DeclaredTarget, all)
	for i := range declared {
		declared[i] = servicedb.DeclaredTarget{Name: fmt.Sprintf("target-%05d", i), Kind: "tlscert"}
	}
	_, err := s.db.ApplyInventory(ctx, declared, s.noon.Add(30*24*time.Hour))
	s.must(err)
	s.exec(`UPDATE targets SET due_at = ? WHERE name LIKE '%00'`, s.noon.Add(-time.Hour).UnixMicro())
	s.exec(`ANALYZE`)
	names := s.dueNames(s.noon, 30)
	if len(names) != due || !slices.IsSorted(names) {
		s.Errorf("%d targets are due, want %d in order", len(names), due)
	}
	plan, err := s.db.DuePlan(ctx, s.noon)
	s.must(err)
	if !strings.Contains(plan, "targets_next") || strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "SCAN") {
		s.Errorf("the sweep does not walk the index:\n%s", plan)
	}
	s.exec(`DROP INDEX targets_next`) // the negative control
	plan, err = s.db.DuePlan(ctx, s.noon)
	s.must(err)
	if !strings.Contains(plan, "Seq Scan") && !strings.Contains(plan, "SCAN") {
		s.Errorf("without the index the plan is:\n%s", plan)
	}
}

func (s *serviceDB) hold() {
	ctx := s.Context()
	s.declare("api", "mail")
	hold := func(run string, until time.Time, want int) {
		s.Helper()
		got, err := s.db.Hold(ctx, "api", servicedb.Hold{Until: until, Reason: "the issuer is down", Run: run}, s.noon)
		s.must(err)
		s.same("failures after "+run, want, got)
	}
	hold("run-1", s.noon.Add(time.Hour), 1)
	hold("run-1", s.noon.Add(time.Hour), 1) // the activity was repeated
	hold("run-2", s.noon.Add(2*time.Hour), 2)
	s.same("due while held", []string{"mail"}, s.dueNames(s.noon.Add(time.Hour), 10))
	s.same("due after the hold", []string{"mail", "api"}, s.dueNames(s.noon.Add(2*time.Hour), 10))
	if got := s.target("api"); got.HoldReason != "the issuer is down" || got.Failures != 2 || !got.HeldUntil.Equal(s.noon.Add(2*time.Hour)) {
		s.Errorf("held until %v, %q, %d failures", got.HeldUntil, got.HoldReason, got.Failures)
	}
	s.must(s.db.Release(ctx, "api", s.noon))
	s.same("due after the release", []string{"api", "mail"}, s.dueNames(s.noon, 10))

	// A proven rotation ends the hold that was made before it, and not the one that was made after it.
	hold("run-3", s.noon.Add(time.Hour), 1)
	s.project(s.outcome(1, 5, activities.Converged))
	if got := s.target("api"); got.Failures != 0 || !got.HeldUntil.IsZero() {
		s.Errorf("after a proven rotation: %d failures, held until %v", got.Failures, got.HeldUntil)
	}
	_, err := s.db.Hold(ctx, "api", servicedb.Hold{Until: s.noon.Add(9 * time.Hour), Run: "run-4"}, s.noon.Add(6*time.Minute))
	s.must(err)
	s.project(s.outcome(1, 5, activities.Converged))
	if got := s.target("api"); got.Failures != 1 || got.HeldUntil.IsZero() {
		s.Errorf("after a late entry: %d failures, held until %v, want the hold to stand", got.Failures, got.HeldUntil)
	}
	if _, err := s.db.Hold(ctx, "nobody", servicedb.Hold{}, s.noon); activities.KindOf(err) != activities.NotFound {
		s.Errorf("unknown target: %v, want not_found", err)
	}
}

func (s *serviceDB) pause() {
	ctx := s.Context()
	s.declare("api", "mail")
	s.must(s.db.SetPaused(ctx, "api", true, s.noon))
	s.same("due while paused", []string{"mail"}, s.dueNames(s.noon, 10))
	s.must(s.db.SetPaused(ctx, "api", false, s.noon))
	s.same("due again", []string{"api", "mail"}, s.dueNames(s.noon, 10))
	if err := s.db.SetPaused(ctx, "nobody", true, s.noon); activities.KindOf(err) != activities.NotFound {
		s.Errorf("unknown target: %v, want not_found", err)
	}
}

func (s *serviceDB) quarantined() {
	s.declare("api", "mail")
	s.project(s.outcome(1, 0, activities.Published), s.outcome(1, 1, activities.Quarantined))
	s.same("due while quarantined", []string{"mail"}, s.dueNames(s.noon.Add(time.Hour), 10))
	s.project(s.outcome(1, 0, activities.Tested)) // late: changes nothing
	s.same("due after a late entry", []string{"mail"}, s.dueNames(s.noon.Add(time.Hour), 10))
	s.project(s.outcome(1, 9, activities.Retired)) // a person resolved it
	s.same("due again", []string{"api", "mail"}, s.dueNames(s.noon.Add(time.Hour), 10))
}

func (s *serviceDB) observed() {
	adopted := servicedb.DeclaredTarget{Name: "api", Kind: "tlscert", Observed: true}
	apply := func(at time.Time) {
		s.Helper()
		_, err := s.db.ApplyInventory(s.Context(), []servicedb.DeclaredTarget{adopted}, at)
		s.must(err)
	}
	apply(s.noon)
	s.same("due before the first look", []string{"api"}, s.dueNames(s.noon, 10))
	for day := range 3 {
		at := s.noon.Add(time.Duration(day) * 24 * time.Hour)
		s.project(record.Entry{Target: "api", Phase: record.Fact, At: at, Facts: map[string]string{record.FactFingerprint: "aaaa", record.FactDueAt: stamp(s.noon)}})
		s.same("due just before the next day", 0, len(s.dueNames(at.Add(24*time.Hour-time.Second), 10)))
		s.same("due the next day", []string{"api"}, s.dueNames(at.Add(24*time.Hour), 10))
	}
	apply(s.noon.Add(50 * time.Hour))
	s.same("due after an unchanged configuration", 0, len(s.dueNames(s.noon.Add(50*time.Hour), 10)))
	adopted.Observed = false
	apply(s.noon.Add(50 * time.Hour))
	s.same("due once it is castellan's", []string{"api"}, s.dueNames(s.noon.Add(50*time.Hour), 10))
}

func (s *serviceDB) targets() {
	_, err := s.db.ApplyInventory(s.Context(), []servicedb.DeclaredTarget{
		{Name: "a", Kind: "tlscert", Owner: "web", Policy: "daily"},
		{Name: "B", Kind: "tlscert", Owner: "web", Policy: "hourly", ExclusionGroup: "pair"},
		{Name: "c", Kind: "postgres", Owner: "data", Policy: "daily", ExclusionGroup: "pair"},
		{Name: "api", Kind: "tlscert", Owner: "edge", Policy: "daily"},
	}, s.noon)
	s.must(err)
	s.project(s.life()...)
	gone := s.outcome(1, 0, activities.Aborted)
	gone.Target, gone.Rotation = "gone", "gone@1"
	s.project(gone)
	list := func(filter servicedb.TargetFilter) (names []string) {
		s.Helper()
		for page := (servicedb.Page{Limit: 2}); ; {
			part, next, err := s.db.Targets(s.Context(), filter, page)
			s.must(err)
			for _, target := range part {
				names = append(names, target.Name)
			}
			if page.Cursor = next; next == "" {
				return names
			}
		}
	}
	for _, test := range []struct {
		name   string
		filter servicedb.TargetFilter
		want   []string
	}{
		{"all that are declared, by the bytes of their names", servicedb.TargetFilter{}, []string{"B", "a", "api", "c"}},
		{"removed ones too", servicedb.TargetFilter{Removed: true}, []string{"B", "a", "api", "c", "gone"}},
		{"a kind", servicedb.TargetFilter{Kind: "postgres"}, []string{"c"}},
		{"an owner's", servicedb.TargetFilter{Owner: "web"}, []string{"B", "a"}},
		{"a policy's", servicedb.TargetFilter{Policy: "hourly"}, []string{"B"}},
		{"an exclusion group", servicedb.TargetFilter{ExclusionGroup: "pair"}, []string{"B", "c"}},
		{"a state", servicedb.TargetFilter{State: activities.Retired}, []string{"api"}},
		{"expiring", servicedb.TargetFilter{ExpiresBefore: s.noon.Add(25 * time.Hour)}, []string{"api"}},
		{"not expiring yet", servicedb.TargetFilter{ExpiresBefore: s.noon.Add(time.Hour)}, nil},
		{"due", servicedb.TargetFilter{DueBefore: s.noon.Add(time.Hour)}, []string{"B", "a", "c"}},
	} {
		s.same(test.name, test.want, list(test.filter))
	}
}

func (s *serviceDB) metrics() {
	s.declare("api", "held", "paused", "fine")
	ctx := s.Context()
	s.project(s.life()[:7]...) // one straggler, one proven consumer, still open
	s.dueAt("fine", s.noon.Add(time.Hour))
	_, err := s.db.Hold(ctx, "held", servicedb.Hold{Until: s.noon.Add(time.Hour), Run: "run"}, s.noon)
	s.must(err)
	s.must(s.db.SetPaused(ctx, "paused", true, s.noon))
	gone := s.outcome(1, 0, activities.Aborted, record.FactIssuedNotReceived, "5")
	gone.Target, gone.Rotation = "gone", "gone@1"
	s.project(gone)
	at := s.noon.Add(30 * time.Minute)
	got, err := s.db.Metrics(ctx, at, 10*time.Minute)
	s.must(err)
	s.same("metrics", servicedb.Metrics{
		Targets:  4,
		Expiries: []servicedb.Expiry{{Target: "api", Kind: "tlscert", Left: 23*time.Hour + 30*time.Minute}},
		Overdue:  2, // api and held were due at noon
		Held:     1, Paused: 1, Open: 1, Unverified: 1, Lost: 1,
		Outcomes:  map[activities.State]int{activities.Aborted: 1},
		Standings: map[activities.Standing]int{activities.UsesCandidate: 1, activities.UsesPrevious: 1},
	}, got)
	got, err = s.db.Metrics(ctx, s.noon.Add(5*time.Minute), 10*time.Minute)
	s.must(err)
	s.same("overdue within the grace", 0, got.Overdue)
}
