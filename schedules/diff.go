package schedules

import (
	"cmp"
	"slices"
	"time"
)

// Actual is a schedule that the engine has.
type Actual struct {
	ID      string
	Owned   bool   // it carries castellan's mark
	Applied string // digest of what castellan last applied; empty: not recognisable
	Paused  bool
	Note    string // why it was paused, in the words of whoever did it
	Created time.Time

	MissedCatchUp  int // starts that came too late to be made up for
	SkippedOverlap int // starts that fell into a run

	shape shape
}

// Op is what a step does.
type Op string

const (
	Create Op = "create"
	Update Op = "update"
	Delete Op = "delete"
	Resume Op = "resume"
	Keep   Op = "keep"  // it is as declared
	Leave  Op = "leave" // it differs, and is not castellan's to change
)

// Change is one property that a step changes.
type Change struct {
	Field  string
	From   string
	To     string
	Reason string
}

// Step is what is done about one schedule, and why.
type Step struct {
	Op       Op
	ID       string
	Sentence string
	Changes  []Change
	ByHand   bool // somebody paused, edited or deleted it

	declared Schedule
}

// Plan is what makes the engine's schedules as declared.
type Plan struct {
	Steps []Step
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool {
	return !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Op != Keep && s.Op != Leave })
}

// Options say how far a plan may go.
type Options struct {
	Resume bool // resume schedules that were paused by hand; otherwise a person's decision stands
}

// diff compares what is declared with what the engine has. Known names the schedules whose work is
// remembered to have succeeded, by id: one of them that is gone was deleted.
func diff(declared []Schedule, actual []Actual, known map[string]time.Time, options Options) (Plan, error) {
	existing := map[string]Actual{}
	for _, a := range actual {
		existing[a.ID] = a
	}
	var plan Plan
	wanted := map[string]bool{}
	for _, schedule := range declared {
		wanted[schedule.ID()] = true
		want, err := schedule.shape()
		if err != nil {
			return Plan{}, err
		}
		found, exists := existing[schedule.ID()]
		if !exists {
			plan.Steps = append(plan.Steps, create(schedule, want, known[schedule.ID()]))
			continue
		}
		plan.Steps = append(plan.Steps, compare(schedule, want, found, options)...)
	}
	for _, a := range actual {
		if !wanted[a.ID] && a.Owned {
			plan.Steps = append(plan.Steps, Step{Op: Delete, ID: a.ID, Sentence: "is no longer declared"})
		}
	}
	slices.SortStableFunc(plan.Steps, func(a, b Step) int { return cmp.Compare(a.ID, b.ID) })
	return plan, nil
}

// create makes a schedule that is missing.
func create(schedule Schedule, want shape, succeeded time.Time) Step {
	step := Step{Op: Create, ID: schedule.ID(), Sentence: "is missing", declared: schedule}
	if !succeeded.IsZero() {
		step.ByHand = true
		step.Sentence = "was deleted by hand or the engine was reset: its work last succeeded at " + succeeded.UTC().Format(time.RFC3339)
	}
	step.Changes = changes(schedule, shape{}, want)
	return step
}

// compare returns the steps for a schedule that exists.
func compare(schedule Schedule, want shape, found Actual, options Options) []Step {
	step := Step{ID: schedule.ID(), declared: schedule}
	if !found.Owned {
		step.Op, step.Sentence = Leave, "exists and was not made by castellan; rename or delete it by hand"
		return []Step{step}
	}
	// The digest is of what was applied last, whatever has been declared since.
	edited := found.Applied != found.shape.digest()
	var steps []Step
	if found.shape != want || edited {
		step.Op, step.Changes, step.ByHand = Update, changes(schedule, found.shape, want), edited
		step.Sentence = "its declaration changed"
		if edited {
			step.Sentence = "was edited by hand"
		}
		steps = append(steps, step)
	}
	if found.Paused {
		pause := Step{Op: Leave, ID: schedule.ID(), ByHand: true, Sentence: "was paused by hand and stays paused", declared: schedule}
		if options.Resume {
			pause.Op, pause.Sentence = Resume, "was paused by hand"
		}
		if found.Note != "" {
			pause.Sentence += ": " + found.Note
		}
		steps = append(steps, pause)
	}
	if len(steps) == 0 {
		step.Op, step.Sentence = Keep, "is as declared"
		steps = append(steps, step)
	}
	return steps
}

// changes lists the properties that differ, with the reason for what they become.
func changes(schedule Schedule, from, to shape) []Change {
	reasons := map[string]string{
		"workflow": "what it starts", "queue": "workflows run in the control zone",
		"input": "under this id the work reports its success", "other": "castellan declares intervals only",
	}
	for _, choice := range schedule.Choices() {
		reasons[choice.Field] = choice.Reason
	}
	before, after := from.fields(), to.fields()
	if from == (shape{}) {
		before = make([]field, len(after)) // nothing was there
	}
	var list []Change
	for i, f := range after {
		if f.value != before[i].value {
			list = append(list, Change{Field: f.name, From: before[i].value, To: f.value, Reason: reasons[f.name]})
		}
	}
	return list
}
