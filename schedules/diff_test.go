package schedules

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

// input is the argument of a sweep, as workflows/rotation declares it.
type input struct {
	Schedule string `json:"schedule"`
}

// declare returns the declared schedules.
func declare(t *testing.T, overrides map[string]Override) []Schedule {
	t.Helper()
	declared, err := Declared(overrides, func(id string) any { return input{id} })
	if err != nil {
		t.Fatal(err)
	}
	return declared
}

// applied returns a schedule as the engine has it after castellan applied it.
func applied(t *testing.T, schedule Schedule) Actual {
	t.Helper()
	want, err := schedule.shape()
	if err != nil {
		t.Fatal(err)
	}
	return Actual{ID: schedule.ID(), Owned: true, Applied: want.digest(), shape: want}
}

func TestDiff(t *testing.T) {
	before := declare(t, nil)
	after := declare(t, map[string]Override{Sweep: {Every: 2 * time.Minute}})
	own := func(change func(*Actual)) []Actual {
		a := applied(t, before[0])
		change(&a)
		return []Actual{a}
	}
	tests := map[string]struct {
		declared []Schedule
		actual   []Actual
		known    map[string]time.Time
		resume   bool
		op       Op
		says     string
		byHand   bool
		changes  []string
	}{
		"it is missing: made": {
			declared: before, op: Create, says: "is missing",
			changes: []string{"every", "jitter", "overlap", "catch-up", "pause on failure", "workflow", "queue", "input"},
		},
		"it is missing although it succeeded before: made again, and said": {
			declared: before, known: map[string]time.Time{"castellan/sweep": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)},
			op: Create, says: "deleted by hand or the engine was reset: its work last succeeded at 2026-03-01T00:00:00Z", byHand: true,
			changes: []string{"every", "jitter", "overlap", "catch-up", "pause on failure", "workflow", "queue", "input"},
		},
		"it is as declared: kept": {declared: before, actual: own(func(*Actual) {}), op: Keep, says: "as declared"},
		"the declaration changed: updated": {
			declared: after, actual: own(func(*Actual) {}), op: Update, says: "declaration changed", changes: []string{"every", "jitter", "catch-up"},
		},
		"somebody edited the interval: restored": {
			declared: before, actual: own(func(a *Actual) { a.shape.Every = time.Hour }), op: Update, says: "edited by hand", byHand: true, changes: []string{"every"},
		},
		"somebody edited the input: restored": {
			declared: before, actual: own(func(a *Actual) { a.shape.Input = `{"schedule":"other"}` }), op: Update, says: "edited by hand", byHand: true, changes: []string{"input"},
		},
		"somebody set pause on failure: restored": {
			declared: before, actual: own(func(a *Actual) { a.shape.PauseOnFailure = true }), op: Update, says: "edited by hand", byHand: true, changes: []string{"pause on failure"},
		},
		"somebody added a calendar: restored": {
			declared: before, actual: own(func(a *Actual) { a.shape.Other = "calendars" }), op: Update, says: "edited by hand", byHand: true, changes: []string{"other"},
		},
		"somebody edited it to what is declared now: the mark is renewed": {
			declared: after, actual: func() []Actual {
				a := applied(t, after[0])
				a.Applied = applied(t, before[0]).Applied
				return []Actual{a}
			}(), op: Update, says: "edited by hand", byHand: true,
		},
		"somebody edited the workflow id: restored": {
			declared: before, actual: own(func(a *Actual) { a.Applied = "" }), op: Update, says: "edited by hand", byHand: true,
		},
		"somebody paused it: left alone, and said": {
			declared: before, actual: own(func(a *Actual) { a.Paused, a.Note = true, "maintenance" }), op: Leave, says: "paused by hand and stays paused: maintenance", byHand: true,
		},
		"somebody paused it and it shall be resumed: resumed": {
			declared: before, actual: own(func(a *Actual) { a.Paused = true }), resume: true, op: Resume, says: "paused by hand", byHand: true,
		},
		"one of castellan's is no longer declared: deleted": {actual: own(func(*Actual) {}), op: Delete, says: "no longer declared"},
		"a foreign schedule under castellan's prefix that nobody declared: not even mentioned": {
			actual: own(func(a *Actual) { a.Owned = false }),
		},
		"a foreign schedule has the id of a declared one: left alone, and said": {
			declared: before, actual: own(func(a *Actual) { a.Owned = false }), op: Leave, says: "not made by castellan",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			plan, err := diff(test.declared, test.actual, test.known, Options{Resume: test.resume})
			if err != nil {
				t.Fatal(err)
			}
			if test.op == "" {
				if len(plan.Steps) != 0 {
					t.Errorf("steps = %+v, want none", plan.Steps)
				}
				return
			}
			if len(plan.Steps) != 1 {
				t.Fatalf("steps = %+v, want one", plan.Steps)
			}
			step := plan.Steps[0]
			var changed []string
			for _, change := range step.Changes {
				changed = append(changed, change.Field)
				if change.Reason == "" {
					t.Errorf("the change of %s has no reason", change.Field)
				}
			}
			if step.Op != test.op || !strings.Contains(step.Sentence, test.says) || step.ByHand != test.byHand {
				t.Errorf("step = %s %q by hand %t, want %s %q by hand %t", step.Op, step.Sentence, step.ByHand, test.op, test.says, test.byHand)
			}
			if diff := cmp.Diff(test.changes, changed); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if want := test.op == Keep || test.op == Leave; plan.Empty() != want {
				t.Errorf("empty = %t, want %t", plan.Empty(), want)
			}
		})
	}
}

func TestEditedAndPausedAreTwoSteps(t *testing.T) {
	declared := declare(t, nil)
	found := applied(t, declared[0])
	found.shape.Every, found.Paused = time.Hour, true
	plan, err := diff(declared, []Actual{found}, nil, Options{Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) != 2 || plan.Steps[0].Op != Update || plan.Steps[1].Op != Resume {
		t.Errorf("steps = %+v, want update and resume", plan.Steps)
	}
}

func TestPlanPrintsWhatWouldChangeAndWhy(t *testing.T) {
	declared := declare(t, map[string]Override{
		"hourly": {Every: time.Hour, Overlap: "buffer-one"}, "paused": {}, "taken": {}, "same": {},
		Sweep: {Every: 2 * time.Minute},
	})
	var actual []Actual
	for _, schedule := range declared {
		found := applied(t, schedule)
		switch schedule.Name {
		case "hourly":
			continue
		case "paused":
			found.Paused, found.Note = true, "until Monday"
		case "taken":
			found.Owned = false
		case Sweep:
			found.shape.Jitter, found.shape.CatchUp = 0, 365*24*time.Hour
		}
		actual = append(actual, found)
	}
	actual = append(actual, Actual{ID: "castellan/gone", Owned: true})
	plan, err := diff(declared, actual, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := plan.Write(&got); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/plan.txt", got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

func TestEveryDeclaredScheduleHasItsReasonsJitterAndCatchUp(t *testing.T) {
	for _, schedule := range declare(t, map[string]Override{"often": {Every: time.Second}, "daily": {Every: 24 * time.Hour}}) {
		if schedule.Jitter < schedule.Every/10 {
			t.Errorf("%s: jitter %s is less than a tenth of %s", schedule.ID(), schedule.Jitter, schedule.Every)
		}
		if schedule.CatchUp > max(schedule.Every, minCatchUp) {
			t.Errorf("%s: catch-up %s is longer than the interval %s", schedule.ID(), schedule.CatchUp, schedule.Every)
		}
		if schedule.SucceedWithin < 2*schedule.Every {
			t.Errorf("%s: alarm after %s, before two intervals are over", schedule.ID(), schedule.SucceedWithin)
		}
		for _, choice := range schedule.Choices() {
			if choice.Value == "" || choice.Reason == "" {
				t.Errorf("%s: choice %+v lacks value or reason", schedule.ID(), choice)
			}
		}
	}
}

func TestDeclarationsThatWouldHurtAreRefused(t *testing.T) {
	for name, override := range map[string]Override{
		"too little jitter":            {Every: time.Hour, Jitter: time.Minute},
		"more jitter than interval":    {Every: time.Minute, Jitter: time.Hour},
		"overlap allow-all":            {Overlap: "allow-all"},
		"a year of catch-up":           {CatchUp: 365 * 24 * time.Hour},
		"an alarm at every jitter":     {SucceedWithin: time.Minute},
		"ten times a second":           {Every: 100 * time.Millisecond},
		"a work that nobody can start": {Work: "scan"},
	} {
		if _, err := Declared(map[string]Override{Sweep: override}, func(string) any { return nil }); err == nil {
			t.Errorf("%s: accepted, want an error", name)
		}
	}
}
