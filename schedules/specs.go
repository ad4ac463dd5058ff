package schedules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"castellan.dev/activities"
)

// Prefix begins the id of every schedule that castellan owns.
const Prefix = "castellan/"

// The system schedules.
const (
	// Sweep starts a rotation for each target that is due.
	Sweep = "sweep"
)

// Overlap says what happens when a start falls into the run before it.
type Overlap string

const (
	Skip      Overlap = "skip"       // leave the start out
	BufferOne Overlap = "buffer-one" // make up for one start when the run ends
)

// Schedule is a declared schedule: a workflow that is started at an interval.
type Schedule struct {
	Name     string
	Every    time.Duration
	Jitter   time.Duration // each start is later by up to this
	Overlap  Overlap
	CatchUp  time.Duration // how late a start that the engine missed is still made up for
	Workflow string        // workflow type
	Queue    string
	Input    any // the workflow's one argument; it must survive JSON unchanged

	SucceedWithin time.Duration // the watchdog alarms when the work has not succeeded for this long

	overridden map[string]bool // fields that the configuration gave
}

// ID returns the schedule's id in the engine.
func (s Schedule) ID() string { return Prefix + s.Name }

// Override is what the configuration says about one schedule; zero fields keep the declared value. Its
// fields are those of the configuration's own struct, so that one converts into the other.
type Override struct {
	Work          string
	Every         time.Duration
	Jitter        time.Duration
	Overlap       string
	CatchUp       time.Duration
	SucceedWithin time.Duration
}

// Declared returns the schedules that should exist, by name: the system's own and those that the
// configuration adds. Input makes the argument of a schedule's workflow from the schedule's id, under
// which the workflow reports its success.
func Declared(overrides map[string]Override, input func(id string) any) ([]Schedule, error) {
	declared := map[string]Schedule{Sweep: sweep(Sweep)}
	for name, override := range overrides {
		if work := cmp.Or(override.Work, Sweep); work != Sweep {
			return nil, fmt.Errorf("declare schedule %q: unknown work %q", name, work)
		}
		base, ok := declared[name]
		if !ok {
			base = sweep(name)
		}
		declared[name] = base.with(override)
	}
	var list []Schedule
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		schedule := declared[name].complete()
		if err := schedule.check(); err != nil {
			return nil, err
		}
		schedule.Input = input(schedule.ID())
		list = append(list, schedule)
	}
	return list, nil
}

// sweep declares the due sweep. A minute costs 43,000 starts a month and bounds how late a rotation
// begins.
func sweep(name string) Schedule {
	return Schedule{
		Name: name, Every: time.Minute, Overlap: Skip,
		Workflow: "rotation.sweep", Queue: activities.Control.Queue(""),
	}
}

// with applies what the configuration says.
func (s Schedule) with(o Override) Schedule {
	s.overridden = map[string]bool{
		"every": o.Every != 0, "jitter": o.Jitter != 0, "overlap": o.Overlap != "",
		"catch-up": o.CatchUp != 0, "success within": o.SucceedWithin != 0,
	}
	s.Every, s.Overlap = cmp.Or(o.Every, s.Every), cmp.Or(Overlap(o.Overlap), s.Overlap)
	s.Jitter, s.CatchUp = cmp.Or(o.Jitter, s.Jitter), cmp.Or(o.CatchUp, s.CatchUp)
	s.SucceedWithin = cmp.Or(o.SucceedWithin, s.SucceedWithin)
	return s
}

// minCatchUp is the least catch-up window that the engine accepts (temporal: service/worker/scheduler,
// MinCatchupWindow).
const minCatchUp = 10 * time.Second

// complete derives what was not given from the interval.
func (s Schedule) complete() Schedule {
	s.Jitter = cmp.Or(s.Jitter, s.Every/5)
	s.CatchUp = cmp.Or(s.CatchUp, max(s.Every, minCatchUp))
	s.SucceedWithin = cmp.Or(s.SucceedWithin, max(5*s.Every, 5*time.Minute))
	return s
}

// check keeps the rules that every declared schedule obeys.
func (s Schedule) check() error {
	switch {
	case s.Every < time.Second:
		return fmt.Errorf("declare schedule %q: interval %s is less than a second", s.Name, s.Every)
	case s.Jitter < s.Every/10 || s.Jitter > s.Every:
		return fmt.Errorf("declare schedule %q: jitter %s is not between a tenth of the interval %s and the interval", s.Name, s.Jitter, s.Every)
	case s.Overlap != Skip && s.Overlap != BufferOne:
		return fmt.Errorf("declare schedule %q: overlap %q is neither skip nor buffer-one", s.Name, s.Overlap)
	case s.CatchUp < minCatchUp || s.CatchUp > max(s.Every, minCatchUp):
		return fmt.Errorf("declare schedule %q: catch-up window %s is not between %s and the interval", s.Name, s.CatchUp, minCatchUp)
	case s.SucceedWithin < 2*s.Every:
		return fmt.Errorf("declare schedule %q: success within %s leaves no room for two intervals of %s", s.Name, s.SucceedWithin, s.Every)
	}
	return nil
}

// Choice is a property of a schedule and why it is what it is.
type Choice struct {
	Field  string
	Value  string
	Reason string
}

// Choices explains the schedule, for people.
func (s Schedule) Choices() []Choice {
	overlap := "a run reads everything that is due; a second one beside it would find the same"
	if s.Overlap == BufferOne {
		overlap = "a start that falls into a run matters, and one afterwards makes up for all"
	}
	choices := []Choice{
		{"every", s.Every.String(), "bounds how late a rotation begins; a run costs what is due, not what exists"},
		{"jitter", s.Jitter.String(), "installations that share an engine must not fire in the same second"},
		{"overlap", string(s.Overlap), overlap},
		{"catch-up", s.CatchUp.String(), "after an outage one run finds everything; the engine's default would make up for a year"},
		{"pause on failure", "off", "a failing target is held back by itself; the others must not wait for it"},
		{"success within", s.SucceedWithin.String(), "the watchdog alarms after that; it takes several missed runs, not one"},
	}
	for i, choice := range choices {
		if s.overridden[choice.Field] {
			choices[i].Reason = "set in the configuration; " + choice.Reason
		}
	}
	return choices
}
