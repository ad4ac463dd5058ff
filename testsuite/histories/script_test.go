package histories

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"castellan.dev/activities"
	"castellan.dev/workers"
)

// script plays every zone with the answers that a scenario needs. A target's name says which scenario it is.
type script struct {
	mu    sync.Mutex
	looks map[string]int
}

// start serves every queue; the workflows are those of production.
func (s *script) start(c client.Client) (stop func(), err error) {
	s.looks = map[string]int{}
	served := []worker.Worker{workers.Control(workers.Settings{Engine: c})}
	for _, zone := range []activities.Zone{activities.Privileged, activities.Observe, activities.Record} {
		w := worker.New(c, zone.Queue(""), worker.Options{DisableWorkflowWorker: true})
		s.register(w)
		served = append(served, w)
	}
	for i, w := range served {
		if err := w.Start(); err != nil {
			for _, running := range served[:i] {
				running.Stop()
			}
			return nil, err
		}
	}
	return func() {
		for _, w := range served {
			w.Stop()
		}
	}, nil
}

func (s *script) register(w worker.Worker) {
	activities.Open.Register(w, s.open)
	activities.Mint.Register(w, func(context.Context, activities.StepRequest) (activities.Candidate, error) {
		return activities.Candidate{KeyID: "key"}, nil
	})
	activities.SetStep.Register(w, func(_ context.Context, r activities.StepRequest) (activities.Candidate, error) {
		if r.Target == "superseded" {
			return activities.Candidate{}, activities.Errorf(activities.Fenced, "a newer epoch has been here")
		}
		return activities.Candidate{KeyID: "key", Fingerprint: "candidate"}, nil
	})
	activities.Test.Register(w, func(_ context.Context, r activities.StepRequest) (activities.Proof, error) {
		if r.Target == "discarded" {
			return activities.Proof{}, activities.Errorf(activities.Failed, "the candidate lacks a name")
		}
		return activities.Proof{Sentence: "the chain builds"}, nil
	})
	activities.Publish.Register(w, func(_ context.Context, r activities.PublishRequest) (activities.PublishResult, error) {
		if r.Target == "quarantined" {
			return activities.PublishResult{}, &activities.Error{Kind: activities.Conflict, Detail: "somebody else wrote there", Final: true}
		}
		return activities.PublishResult{}, nil
	})
	activities.Converge.Register(w, s.converge)
	activities.Prove.Register(w, func(context.Context, activities.StepRequest) (activities.DeathResult, error) {
		return activities.DeathResult{Proven: true, Proof: activities.Proof{Sentence: "revoked and refused"}}, nil
	})
	activities.Retire.Register(w, func(context.Context, activities.RetireRequest) (activities.Proof, error) {
		return activities.Proof{Sentence: "erased"}, nil
	})
	activities.Rollback.Register(w, func(context.Context, activities.StepRequest) (activities.PublishResult, error) {
		return activities.PublishResult{Proof: activities.Proof{Sentence: "previous restored"}}, nil
	})
	activities.End.Register(w, func(context.Context, activities.EndRequest) (activities.Proof, error) { return activities.Proof{}, nil })
	activities.Hold.Register(w, func(context.Context, activities.HoldRequest) (struct{}, error) { return struct{}{}, nil })
	activities.Sweep.Register(w, func(_ context.Context, r activities.SweepRequest) (activities.SweepResult, error) {
		if r.Cursor == "" {
			return activities.SweepResult{Due: []activities.DueTarget{{Target: "swept", Kind: "certificate"}, {Target: "busy", Kind: "certificate"}}, Cursor: "more"}, nil
		}
		return activities.SweepResult{Due: []activities.DueTarget{{Target: "swept-later", Kind: "certificate"}}}, nil
	})
	activities.Succeeded.Register(w, func(context.Context, activities.SuccessRequest) (struct{}, error) { return struct{}{}, nil })
}

func (s *script) open(_ context.Context, r activities.OpenRequest) (activities.Plan, error) {
	wave := activities.Wave{Deliveries: []string{"files"}, Consumers: []string{"server"}}
	plan := activities.Plan{
		Verdict: activities.Verdict{Due: true, Sentence: "renews at 2/3 of its lifetime"}, Rotation: activities.NewRotationID(r.Target, 4), Epoch: 4,
		Kind: "certificate", State: activities.Planned, Previous: "previous", CanaryGrace: time.Second, Waves: []activities.Wave{wave},
	}
	switch r.Target {
	case "not-due":
		return activities.Plan{Verdict: activities.Verdict{Sentence: "not yet"}}, nil
	case "unknown":
		return activities.Plan{}, activities.Errorf(activities.Invalid, "target %q is not in this worker's configuration", r.Target)
	case "two-waves":
		plan.Waves = append(plan.Waves, activities.Wave{Deliveries: []string{"rest"}, Consumers: []string{"others"}})
	}
	if strings.HasPrefix(r.Target, "window-") && !r.Trigger.Anytime || r.Target == "busy" {
		return activities.Plan{Verdict: activities.Verdict{Due: true, Wait: time.Now().Add(24 * time.Hour), Sentence: "outside its window"}}, nil
	}
	plan.Compromise = r.Trigger.Compromise
	return plan, nil
}

func (s *script) converge(_ context.Context, r activities.ConvergeRequest) (activities.ConvergeResult, error) {
	proven := activities.ConvergeResult{Proof: activities.Proof{Evidence: []string{"proof"}}, Converged: r.Consumers, Addresses: 1}
	if r.Patience == 0 || r.Fingerprint == "previous" { // the look before, and the one after a rollback
		return proven, nil
	}
	s.mu.Lock()
	s.looks[r.Target]++
	look := s.looks[r.Target]
	s.mu.Unlock()
	missing := func(standing activities.Standing) (activities.ConvergeResult, error) {
		since := time.Now().Add(-time.Hour)
		return activities.ConvergeResult{Addresses: 1, Stragglers: []activities.Straggler{{Consumer: "server", Address: "10.0.0.1:443", Standing: standing, Since: since}}}, nil
	}
	switch {
	case r.Target == "rolled-back":
		return missing(activities.Broken)
	case r.Target == "straggler" && look <= 2,
		r.Target == "continued" && look <= 5,
		r.Target == "aborted-late":
		return missing(activities.UsesPrevious)
	}
	return proven, nil
}
