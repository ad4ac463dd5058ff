package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
)

// world is a scripted privileged and observe zone: real activities under the released names, with
// knobs. It keeps the order in which steps were taken.
type world struct {
	taken   []string
	plan    activities.Plan
	window  time.Duration // how long after the first open the maintenance window opens
	opens   time.Time
	life    time.Duration               // of the candidate; zero: for ever
	looks   []activities.ConvergeResult // answers to looks after publication, the last one repeats
	fail    map[string]error            // by activity name
	asked   []activities.OpenRequest
	stands  activities.Plan // answer to a run that was overtaken
	retired []activities.RetireRequest
	now     func() time.Time

	during func(*testsuite.TestWorkflowEnvironment) // happens while the first look after publication is made
	hosts  []string                                 // workers that each send the run to the next
}

func newWorld() *world {
	return &world{
		plan: activities.Plan{
			Verdict: activities.Verdict{Due: true, Sentence: "renews at 2/3 of its lifetime"}, Rotation: "payments@4", Epoch: 4,
			Kind: "certificate", State: activities.Planned, Previous: "old", CanaryGrace: 5 * time.Second,
			Waves: []activities.Wave{{Deliveries: []string{"canary"}, Consumers: []string{"one"}}, {Deliveries: []string{"rest"}, Consumers: []string{"two"}}},
		},
		fail: map[string]error{},
	}
}

func (w *world) did(name string) error {
	w.taken = append(w.taken, strings.TrimPrefix(name, "rotate."))
	return w.fail[name]
}

func (w *world) register(env *testsuite.TestWorkflowEnvironment) {
	w.now = env.Now
	activities.Open.Register(env, func(_ context.Context, r activities.OpenRequest) (activities.Plan, error) {
		w.asked = append(w.asked, r)
		if r.Rotation != "" {
			w.taken = append(w.taken, "open")
			return w.stands, nil
		}
		if err := w.did("rotate.open"); err != nil {
			return activities.Plan{}, err
		}
		if len(w.hosts) > 0 {
			return activities.Plan{Host: w.hosts[len(w.asked)%len(w.hosts)]}, nil
		}
		if w.opens.IsZero() {
			w.opens = env.Now().Add(w.window)
		}
		if wait := w.opens; wait.After(env.Now()) && !r.Trigger.Anytime {
			return activities.Plan{Verdict: activities.Verdict{Due: true, Wait: wait, Sentence: "outside its window"}}, nil
		}
		return w.plan, nil
	})
	activities.Mint.Register(env, func(context.Context, activities.StepRequest) (activities.Candidate, error) {
		return activities.Candidate{KeyID: "k"}, w.did("rotate.mint")
	})
	activities.SetStep.Register(env, func(context.Context, activities.StepRequest) (activities.Candidate, error) {
		candidate := activities.Candidate{KeyID: "k", Fingerprint: "fresh"}
		if w.life > 0 {
			candidate.NotBefore, candidate.NotAfter = env.Now(), env.Now().Add(w.life)
		}
		return candidate, w.did("rotate.set")
	})
	activities.Test.Register(env, func(context.Context, activities.StepRequest) (activities.Proof, error) {
		return activities.Proof{}, w.did("rotate.test")
	})
	activities.Publish.Register(env, func(_ context.Context, r activities.PublishRequest) (activities.PublishResult, error) {
		return activities.PublishResult{}, w.did("rotate.publish:" + strings.Join(r.Deliveries, "+"))
	})
	activities.Converge.Register(env, func(_ context.Context, r activities.ConvergeRequest) (activities.ConvergeResult, error) {
		if r.Patience == 0 { // the baseline
			return activities.ConvergeResult{}, w.did("rotate.baseline")
		}
		if err := w.did("rotate.converge"); err != nil {
			return activities.ConvergeResult{}, err
		}
		if w.during != nil {
			w.during(env)
			w.during = nil
		}
		if r.Fingerprint == "old" || len(w.looks) == 0 {
			return activities.ConvergeResult{Proof: activities.Proof{Evidence: []string{"proof-" + r.Consumers[0]}}, Converged: r.Consumers, Addresses: 1}, nil
		}
		look := w.looks[0]
		if len(w.looks) > 1 {
			w.looks = w.looks[1:]
		}
		for i := range look.Stragglers {
			look.Stragglers[i].Since = env.Now().Add(-r.Patience)
		}
		return look, nil
	})
	activities.Prove.Register(env, func(context.Context, activities.StepRequest) (activities.DeathResult, error) {
		return activities.DeathResult{Proven: true}, w.did("rotate.prove")
	})
	activities.Retire.Register(env, func(_ context.Context, r activities.RetireRequest) (activities.Proof, error) {
		w.retired = append(w.retired, r)
		return activities.Proof{Sentence: "erased"}, w.did("rotate.retire")
	})
	activities.Rollback.Register(env, func(context.Context, activities.StepRequest) (activities.PublishResult, error) {
		return activities.PublishResult{Proof: activities.Proof{Sentence: "previous restored"}}, w.did("rotate.rollback")
	})
	activities.Hold.Register(env, func(context.Context, activities.HoldRequest) (struct{}, error) {
		return struct{}{}, w.did("hold")
	})
	activities.End.Register(env, func(_ context.Context, r activities.EndRequest) (activities.Proof, error) {
		return activities.Proof{}, w.did("rotate.end:" + string(r.State))
	})
}

func (w *world) run(t *testing.T, input Input, script func(*testsuite.TestWorkflowEnvironment)) (Result, error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartWorkflowOptions(workflowOptions("payments"))
	env.RegisterWorkflowWithOptions(Rotation, workflow.RegisterOptions{Name: Name})
	w.register(env)
	if script != nil {
		script(env)
	}
	env.ExecuteWorkflow(Name, input)
	if !env.IsWorkflowCompleted() {
		t.Fatal("the workflow did not complete")
	}
	var result Result
	if err := env.GetWorkflowError(); err != nil {
		return result, err
	}
	if err := env.GetWorkflowResult(&result); err != nil {
		t.Fatal(err)
	}
	return result, nil
}

func straggler(standing activities.Standing) activities.ConvergeResult {
	return activities.ConvergeResult{Stragglers: []activities.Straggler{{Consumer: "one", Address: "10.0.0.1:443", Standing: standing}}, Addresses: 1}
}

var proven = activities.ConvergeResult{Proof: activities.Proof{Evidence: []string{"proof-one"}}, Converged: []string{"one"}, Addresses: 1}

func TestRotation(t *testing.T) {
	happy := "open mint set test baseline publish:canary converge publish:rest converge retire"
	for sentence, c := range map[string]struct {
		change func(*world)
		input  Input
		script func(*testsuite.TestWorkflowEnvironment)
		state  activities.State
		taken  string
	}{
		"all goes well": {state: activities.Retired, taken: happy},
		"a straggler is waited for and the previous is not retired before": {
			change: func(w *world) {
				w.looks = []activities.ConvergeResult{straggler(activities.UsesPrevious), straggler(activities.UsesPrevious), proven}
			},
			state: activities.Retired, taken: "open mint set test baseline publish:canary converge converge converge publish:rest converge retire",
		},
		"a straggler that outlasts the candidate's life makes room for a fresh rotation and nothing is retired": {
			change: func(w *world) {
				w.looks = []activities.ConvergeResult{straggler(activities.UsesPrevious)}
				w.life = 30 * time.Minute
			},
			state: activities.Superseded, taken: "converge end:SUPERSEDED",
		},
		"a broken canary is rolled back": {
			change: func(w *world) { w.looks = []activities.ConvergeResult{straggler(activities.Broken)} },
			state:  activities.RolledBack, taken: "open mint set test baseline publish:canary converge rollback converge end:ROLLED_BACK hold",
		},
		"a candidate that fails its test is discarded": {
			change: func(w *world) { w.fail["rotate.test"] = activities.Errorf(activities.Failed, "name missing") },
			state:  activities.Aborted, taken: "open mint set test end:ABORTED hold",
		},
		"a foreign writer quarantines": {
			change: func(w *world) {
				w.fail["rotate.publish:canary"] = &activities.Error{Kind: activities.Conflict, Detail: "foreign", Final: true}
			},
			state: activities.Quarantined, taken: "open mint set test baseline publish:canary end:QUARANTINED hold",
		},
		"a newer epoch supersedes": {
			change: func(w *world) { w.fail["rotate.set"] = activities.Errorf(activities.Fenced, "newer") },
			state:  activities.Superseded, taken: "open mint set open",
		},
		"a rotation that somebody else finished ends as it did": {
			change: func(w *world) {
				w.fail["rotate.set"] = activities.Errorf(activities.Fenced, "ended already")
				w.stands = activities.Plan{Rotation: "payments@4", State: activities.Retired}
			},
			state: activities.Retired, taken: "open mint set open",
		},
		"a half rollback goes on backwards": {
			change: func(w *world) { w.plan.Reverting, w.plan.Published, w.plan.State = true, true, activities.Published },
			state:  activities.RolledBack, taken: "open rollback converge end:ROLLED_BACK hold",
		},
		"compromise proves the previous dead before its key is erased": {
			change: func(w *world) { w.plan.Compromise = true },
			state:  activities.ProvenDead, taken: strings.Replace(happy, "retire", "prove retire", 1),
		},
		"until tested stops before publishing": {
			input: Input{Trigger: activities.Trigger{Until: activities.Tested}},
			state: activities.Tested, taken: "open mint set test",
		},
		"not due ends without a rotation": {
			change: func(w *world) { w.plan = activities.Plan{Verdict: activities.Verdict{Sentence: "not yet"}} },
			state:  activities.NotDue, taken: "open",
		},
		"observe-only does nothing": {
			change: func(w *world) { w.plan = activities.Plan{Verdict: activities.Verdict{Due: true}, Observed: true} },
			state:  activities.NotDue, taken: "open",
		},
		"a window is waited for": {
			change: func(w *world) { w.window = time.Hour },
			state:  activities.Retired, taken: "open " + happy,
		},
		"skip-window does not wait": {
			change: func(w *world) { w.window = time.Hour },
			script: func(env *testsuite.TestWorkflowEnvironment) {
				env.RegisterDelayedCallback(func() { env.SignalWorkflow(SkipWindow, nil) }, time.Minute)
			},
			state: activities.Retired, taken: "open " + happy,
		},
		"abort while waiting ends without a rotation": {
			change: func(w *world) { w.window = time.Hour },
			script: func(env *testsuite.TestWorkflowEnvironment) {
				env.RegisterDelayedCallback(func() { env.SignalWorkflow(Abort, Request{Actor: "ann"}) }, time.Minute)
			},
			state: activities.NotDue, taken: "open",
		},
		"abort while a straggler is waited for rolls back": {
			change: func(w *world) {
				w.looks = []activities.ConvergeResult{straggler(activities.UsesPrevious)}
				w.plan.Waves = w.plan.Waves[:1]
			},
			script: func(env *testsuite.TestWorkflowEnvironment) {
				env.RegisterDelayedCallback(func() { env.SignalWorkflow(Abort, Request{Actor: "ann"}) }, 2*time.Minute)
			},
			state: activities.RolledBack, taken: "rollback converge end:ROLLED_BACK hold",
		},
		"cancellation is an abort": {
			change: func(w *world) { w.window = time.Hour },
			script: func(env *testsuite.TestWorkflowEnvironment) {
				env.RegisterDelayedCallback(env.CancelWorkflow, time.Minute)
			},
			state: activities.NotDue, taken: "open",
		},
		"pause holds and resume goes on": {
			change: func(w *world) { w.window = time.Hour },
			script: func(env *testsuite.TestWorkflowEnvironment) {
				env.RegisterDelayedCallback(func() { env.SignalWorkflow(Pause, "lunch") }, time.Minute)
				env.RegisterDelayedCallback(func() { env.SignalWorkflow(Resume, nil) }, 48*time.Hour)
			},
			state: activities.Retired, taken: "open " + happy, // the window opened during the pause
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			w := newWorld()
			if c.change != nil {
				c.change(w)
			}
			result, err := w.run(t, c.input, c.script)
			if err != nil {
				t.Fatal(err)
			}
			if result.State != c.state {
				t.Errorf("state: got %s (%s), want %s", result.State, result.Sentence, c.state)
			}
			got := strings.Join(w.taken, " ")
			if !strings.HasSuffix(got, c.taken) || strings.HasPrefix(c.taken, "open") && got != c.taken {
				t.Errorf("steps:\n got %s\nwant %s", got, c.taken)
			}
			for _, retirement := range w.retired {
				if len(retirement.Converged) != len(w.plan.Waves) {
					t.Errorf("retired with evidence %v, want one per wave", retirement.Converged)
				}
			}
		})
	}
}

func TestMessagesAreValidated(t *testing.T) {
	w := newWorld()
	w.window = time.Hour
	answers := map[string]error{}
	_, err := w.run(t, Input{}, func(env *testsuite.TestWorkflowEnvironment) {
		send := func(at time.Duration, name string) {
			env.RegisterDelayedCallback(func() {
				env.UpdateWorkflow(name, name+at.String(), &testsuite.TestUpdateCallback{
					OnAccept:   func() { answers[name+at.String()] = nil },
					OnReject:   func(err error) { answers[name+at.String()] = err },
					OnComplete: func(any, error) {},
				}, Request{Actor: "ann"})
			}, at)
		}
		send(1*time.Minute, Resume)
		send(2*time.Minute, Pause)
		send(3*time.Minute, Pause)
		send(4*time.Minute, Resume)
		env.RegisterDelayedCallback(func() { env.SignalWorkflow(Resume, nil) }, 5*time.Minute)
		env.RegisterDelayedCallback(func() {
			value, err := env.QueryWorkflow(QueryState)
			if err != nil {
				t.Fatal(err)
			}
			var state State
			if err := value.Get(&state); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(state.Note, "is not paused") {
				t.Errorf("note: got %q, want the ignored signal", state.Note)
			}
		}, 6*time.Minute)
		send(7*time.Minute, SkipWindow)
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, refused := range map[string]bool{"resume1m0s": true, "pause2m0s": false, "pause3m0s": true, "resume4m0s": false, "skip-window7m0s": false} {
		err, answered := answers[key]
		if !answered || refused != (err != nil) {
			t.Errorf("%s: got %v (answered %v), want refused %v", key, err, answered, refused)
		}
	}
}

func TestContinueAsNewCarriesTheState(t *testing.T) {
	w := newWorld()
	w.looks = []activities.ConvergeResult{straggler(activities.UsesPrevious)}
	_, err := w.run(t, Input{}, func(env *testsuite.TestWorkflowEnvironment) {
		env.RegisterDelayedCallback(func() { env.SetContinueAsNewSuggested(true) }, time.Minute)
	})
	var again *workflow.ContinueAsNewError
	if !errors.As(err, &again) {
		t.Fatalf("got %v, want continue as new", err)
	}
	var input Input
	if err := json.Unmarshal(again.Input.Payloads[0].Data, &input); err != nil {
		t.Fatal(err)
	}
	if input.Carried == nil || !input.Carried.Placed || len(input.Carried.Stragglers) != 1 {
		t.Fatalf("carried: got %+v, want the placed wave and its straggler", input.Carried)
	}
	next := newWorld()
	result, err := next.run(t, input, nil)
	if err != nil || result.State != activities.Retired {
		t.Fatalf("next run: got %v, %v", result, err)
	}
	if got, want := strings.Join(next.taken, " "), "converge publish:rest converge retire"; got != want {
		t.Errorf("next run's steps: got %s, want %s", got, want)
	}
}

func TestTargetMustAgreeWithTheID(t *testing.T) {
	_, err := newWorld().run(t, Input{Target: "orders"}, nil)
	if err == nil || !strings.Contains(err.Error(), "both must agree") {
		t.Errorf("got %v", err)
	}
}
