package rotation

import (
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/testsuite"

	"castellan.dev/activities"
)

// TestEdges are the rotations that go neither well nor simply wrong.
func TestEdges(t *testing.T) {
	for sentence, c := range map[string]struct {
		change func(*world)
		input  Input
		script func(*testsuite.TestWorkflowEnvironment)
		state  activities.State
		taken  string
	}{
		"an issuer that refuses leaves nothing to a person": {
			change: func(w *world) { w.fail["rotate.set"] = activities.Errorf(activities.Denied, "policy") },
			state:  activities.Aborted, taken: "open mint set end:ABORTED hold",
		},
		"a candidate that expired before it was published is taken back": {
			change: func(w *world) { w.fail["rotate.publish:canary"] = activities.Errorf(activities.Failed, "expired") },
			state:  activities.RolledBack, taken: "open mint set test baseline publish:canary rollback converge end:ROLLED_BACK hold",
		},
		"a quarantined target is held back further": {
			change: func(w *world) {
				w.plan = activities.Plan{Verdict: activities.Verdict{Reason: "quarantined", Sentence: "stopped for a person"}}
			},
			state: activities.NotDue, taken: "open hold",
		},
		"until tested does not stop what is published already": {
			change: func(w *world) { w.plan.State, w.plan.Published = activities.Tested, true },
			input:  Input{Trigger: activities.Trigger{Until: activities.Tested}},
			state:  activities.Retired, taken: "open publish:canary converge publish:rest converge retire",
		},
		"what is broken when a dead run's rotation goes on is the candidate's fault": {
			change: func(w *world) {
				w.plan.State, w.plan.Published = activities.Published, true
				w.looks = []activities.ConvergeResult{straggler(activities.Broken)}
			},
			state: activities.RolledBack, taken: "open publish:canary converge rollback converge end:ROLLED_BACK hold",
		},
		"a rotation that is over says how it ended": {
			change: func(w *world) { w.plan.State, w.plan.Verdict.Sentence = activities.Aborted, "aborted by ann" },
			state:  activities.Aborted, taken: "open",
		},
		"an abort during the last look counts": {
			change: func(w *world) {
				w.plan.Waves = w.plan.Waves[:1]
				w.during = func(env *testsuite.TestWorkflowEnvironment) { env.SignalWorkflow(Abort, Request{Actor: "ann"}) }
			},
			state: activities.RolledBack, taken: "open mint set test baseline publish:canary converge rollback converge end:ROLLED_BACK hold",
		},
		"a pause during the last look holds before the retirement": {
			change: func(w *world) {
				w.plan.Waves = w.plan.Waves[:1]
				w.during = func(env *testsuite.TestWorkflowEnvironment) { env.SignalWorkflow(Pause, "wait") }
			},
			script: func(env *testsuite.TestWorkflowEnvironment) {
				env.RegisterDelayedCallback(func() { env.SignalWorkflow(Abort, Request{Actor: "ann"}) }, time.Hour)
			},
			state: activities.RolledBack, taken: "open mint set test baseline publish:canary converge rollback converge end:ROLLED_BACK hold",
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			w := newWorld()
			c.change(w)
			result, err := w.run(t, c.input, c.script)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(w.taken, " "); result.State != c.state || got != c.taken {
				t.Errorf("got %s (%s) by\n %s\nwant %s by\n %s", result.State, result.Sentence, got, c.state, c.taken)
			}
			if result.Sentence == "" {
				t.Error("the result has no sentence")
			}
		})
	}
}

func TestALookThatCannotBeMadeIsMadeLater(t *testing.T) {
	w := newWorld()
	w.plan.Waves = w.plan.Waves[:1]
	w.fail["rotate.converge"] = activities.Errorf(activities.Transient, "no route to host")
	result, err := w.run(t, Input{}, func(env *testsuite.TestWorkflowEnvironment) {
		env.RegisterDelayedCallback(func() { delete(w.fail, "rotate.converge") }, 100*time.Hour)
	})
	if err != nil || result.State != activities.Retired {
		t.Errorf("got %+v, %v; want it to wait for as long as it takes", result, err)
	}
}

func TestStateOfAnotherTargetIsRefused(t *testing.T) {
	carried := State{Target: "orders", Plan: activities.Plan{Rotation: "orders@3", Epoch: 3}, State: activities.Converged}
	w := newWorld()
	_, err := w.run(t, Input{Carried: &carried}, nil)
	if err == nil || !strings.Contains(err.Error(), "carried") || len(w.taken) > 0 {
		t.Errorf("got %v after %v, want a refusal before the first step", err, w.taken)
	}
}

func TestWorkersThatDisagreeAboutTheHostEndTheRun(t *testing.T) {
	w := newWorld()
	w.hosts = []string{"a", "b"}
	_, err := w.run(t, Input{}, nil)
	if err == nil || !strings.Contains(err.Error(), "do not agree") {
		t.Errorf("got %v, want an end", err)
	}
}

func TestASentenceNamesTenStragglersAtMost(t *testing.T) {
	many := make([]activities.Straggler, 500)
	for i := range many {
		many[i] = activities.Straggler{Consumer: "pods", Address: "10.0.0.1:443", Standing: activities.Broken}
	}
	if got := describe(many); !strings.HasSuffix(got, "; and 490 more") {
		t.Errorf("got %d bytes ending in %q", len(got), got[len(got)-20:])
	}
}
