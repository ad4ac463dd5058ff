package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
)

// act is one thing that the show shows. It polls facts until they are there or its time is over, and
// returns a sentence about what was seen.
type act struct {
	title string
	limit time.Duration
	play  func(context.Context, *show) (string, error)
	after func(*show) []func(context.Context) // what runs from then on, in the background
}

func (a act) begins(s *show) []func(context.Context) {
	if a.after == nil {
		return nil
	}
	return a.after(s)
}

// acts lists the show.
func acts() []act {
	return []act{
		{"castellan-dev and a worker of its own process start", 2 * time.Minute, begin,
			func(s *show) []func(context.Context) { return []func(context.Context){s.watcher.run, s.keys.run} }},
		{"the schedule fires, and everything gets its first certificate", 2 * time.Minute, first,
			func(s *show) []func(context.Context) { return []func(context.Context){s.load.Run} }},
		{"the worker is killed in the middle of a rotation", 3 * time.Minute, kill, nil},
		{"the worker is started again", time.Minute, restart, nil},
		{"a straggler is named, and converges", 3 * time.Minute, converge, nil},
		{"a certificate is compromised: revoked, and refused", 2 * time.Minute, compromise, nil},
		{"the killed rotation ends as it began", 3 * time.Minute, survive, nil},
		{"the load has seen enough rotations", 3 * time.Minute, enough, nil},
		{"the evidence is verified offline", time.Minute, evidence, nil},
		{"a tampered copy of the evidence is refused", time.Minute, tamper, nil},
		{"no private key is where it does not belong", time.Minute, leaks, nil},
		{"no handshake failed", time.Minute, count, nil},
	}
}

// until polls a condition until it holds, fails, or the context ends. What castellan cannot answer now
// is asked again.
func until(ctx context.Context, every time.Duration, holds func() (bool, error)) error {
	for {
		done, err := holds()
		var own *activities.Error
		if again := errors.As(err, &own) && own.Kind == activities.Transient; !again && (err != nil || done) {
			return err
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
			return context.Cause(ctx)
		case <-time.After(every):
		}
	}
}

// begin starts every process.
func begin(ctx context.Context, s *show) (string, error) {
	if err := s.launch(ctx); err != nil {
		return "", err
	}
	if err := s.connect(ctx); err != nil {
		return "", err
	}
	if err := errors.Join(s.serve(), s.work()); err != nil {
		return "", err
	}
	return fmt.Sprintf("pid %d, and the privileged zone in pid %d", s.endpoints.PID, s.worker.cmd.Process.Pid), nil
}

// first waits until every target's first rotation has ended. It begins by itself: what has no
// certificate is due. Afterwards the services answer, or the load would start with failures.
func first(ctx context.Context, s *show) (string, error) {
	err := until(ctx, 300*time.Millisecond, func() (bool, error) {
		ended := s.watcher.outcomes(func(r api.Rotation) bool { return r.Trigger.Source == "schedule" })
		return ended[activities.Retired] >= len(targets()), nil
	})
	if err != nil {
		return "", err
	}
	export, err := s.export(ctx, "early")
	if err != nil {
		return "", err
	}
	s.pinned = export
	return "orders, payments on two addresses, auditor and monitor", nil
}

// victim is the rotation whose worker is killed.
type victim struct {
	run string
	id  activities.RotationID
	key string
	at  activities.State
}

// kill waits for a rotation that the schedule began, and kills the worker as soon as its candidate is
// minted. While payments rotates it waits for the next: one thing is shown at a time.
func kill(ctx context.Context, s *show) (string, error) {
	var live api.Live
	err := until(ctx, 15*time.Millisecond, func() (bool, error) {
		open, err := s.api.Rotations(ctx, url.Values{"target": {orders}, "open": {"true"}})
		if err != nil || len(open.Items) == 0 || !s.watcher.idle(payments) {
			return false, err
		}
		live, err = s.api.Live(ctx, orders, "")
		middle := live.State.State == activities.Minted || live.State.State == activities.Set || live.State.State == activities.Tested
		return middle && live.Candidate.KeyID != "" && !live.Touched, err
	})
	if err != nil {
		return "", err
	}
	pid := s.worker.cmd.Process.Pid
	if err := s.children.kill(s.worker); err != nil {
		return "", err
	}
	s.victim = victim{live.Run, live.Plan.Rotation, live.Candidate.KeyID, live.State.State}
	return fmt.Sprintf("SIGKILL for pid %d, %s is %s with candidate key %s", pid, s.victim.id, s.victim.at, short(s.victim.key)), nil
}

// restart starts the worker again after a while without one.
func restart(ctx context.Context, s *show) (string, error) {
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(2 * time.Second):
	}
	if err := s.work(); err != nil {
		return "", err
	}
	return fmt.Sprintf("pid %d; what the killed one had in hand is tried again when its heartbeats are missed", s.worker.cmd.Process.Pid), nil
}

// converge waits until castellan has named the late replica, and until the same rotation has ended well.
func converge(ctx context.Context, s *show) (string, error) {
	var named *straggle
	err := until(ctx, 200*time.Millisecond, func() (bool, error) {
		named = s.watcher.straggler()
		return named != nil, nil
	})
	if err != nil {
		return "", err
	}
	err = until(ctx, 300*time.Millisecond, func() (bool, error) {
		r, err := s.api.Rotation(ctx, string(named.rotation))
		if err == nil && r.State.Ended() && r.State != activities.Retired {
			err = fmt.Errorf("%s ended as %s: %s", r.ID, r.State, r.Sentence)
		}
		return r.State == activities.Retired, err
	})
	if err != nil {
		return "", err
	}
	s.outcome.straggler = fmt.Sprintf("%s: %s; then it converged, and the previous key was erased", named.rotation, describeStraggler(named.who))
	return s.outcome.straggler, nil
}

// compromise reports the auditor's certificate as compromised, and tries both certificates itself.
func compromise(ctx context.Context, s *show) (string, error) {
	file := s.layout.combined(auditor)
	roots, err := pool(s.endpoints.CA.Root)
	if err != nil {
		return "", err
	}
	visit := func(pair tls.Certificate) error {
		return ask(ctx, s.payments(), &tls.Config{RootCAs: roots, ServerName: "payments.internal", Certificates: []tls.Certificate{pair}}, payments)
	}
	previous, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return "", err
	}
	if err := visit(previous); err != nil {
		return "", fmt.Errorf("before the revocation: %w", err)
	}
	started, err := s.api.Rotate(ctx, auditor, api.RotateRequest{Compromise: true, Reason: "the demo says that its key was seen in a log"})
	if err != nil {
		return "", err
	}
	live, err := s.ended(ctx, auditor, started.Run)
	if err != nil {
		return "", err
	}
	if live.Result.State != activities.ProvenDead {
		return "", fmt.Errorf("ended as %s: %s", live.Result.State, live.Result.Sentence)
	}
	if err := visit(previous); err == nil {
		return "", errors.New("payments still accepts the revoked certificate")
	}
	current, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return "", err
	}
	if err := visit(current); err != nil {
		return "", fmt.Errorf("payments refuses the certificate in its place, too: %w", err)
	}
	s.outcome.revocation = fmt.Sprintf("%s: the certificate of an hour's life is revoked and proven refused by both replicas", live.Result.Rotation)
	return s.outcome.revocation, nil
}

// payments returns the address of the first replica.
func (s *show) payments() string { return s.addresses.payments1.Addr().String() }

// ended waits for the end of a workflow run.
func (s *show) ended(ctx context.Context, target, run string) (api.Live, error) {
	var live api.Live
	err := until(ctx, 200*time.Millisecond, func() (bool, error) {
		var err error
		if live, err = s.api.Live(ctx, target, run); err != nil {
			return false, err
		}
		if live.Status != "running" && live.Result == nil {
			return false, fmt.Errorf("run %s of %s is %s: %s", run, target, live.Status, live.Error)
		}
		return live.Result != nil, nil
	})
	return live, err
}

// survive waits for the end of the rotation whose worker was killed: under the same id and with the same
// candidate.
func survive(ctx context.Context, s *show) (string, error) {
	live, err := s.ended(ctx, orders, s.victim.run)
	if err != nil {
		return "", err
	}
	if live.Result.Rotation != s.victim.id || live.Candidate.KeyID != s.victim.key || live.Result.State != activities.Retired {
		return "", fmt.Errorf("killed as %s with candidate key %s, ended as %s with %s: %s %s", s.victim.id, s.victim.key,
			live.Result.Rotation, live.Candidate.KeyID, live.Result.State, live.Result.Sentence)
	}
	s.outcome.killed = fmt.Sprintf("SIGKILL when %s was %s; it ended %s after the restart, with the same candidate key %s",
		s.victim.id, s.victim.at, live.Result.State, short(s.victim.key))
	return s.outcome.killed, nil
}

// What the show must have seen before it ends.
const (
	neededRotations = 6 // begun by the schedule, after the first of every target
	neededLoad      = 2 * time.Minute
	neededProbes    = 1500
)

// enough waits until there was enough to see.
func enough(ctx context.Context, s *show) (string, error) {
	var rotations int
	var c Count
	err := until(ctx, 500*time.Millisecond, func() (bool, error) {
		ended := s.watcher.outcomes(func(r api.Rotation) bool { return r.Trigger.Source == "schedule" && r.Epoch > 1 })
		rotations, c = ended[activities.Retired], s.load.Count()
		return rotations >= neededRotations && c.Probes >= neededProbes && time.Since(c.Began) >= neededLoad, nil
	})
	if err != nil {
		return "", fmt.Errorf("%w: %d rotations of %d, %d probes of %d", err, rotations, neededRotations, c.Probes, neededProbes)
	}
	return fmt.Sprintf("%d rotations begun by the schedule, %d probes", rotations, c.Probes), nil
}

// count looks at what must not have happened.
func count(_ context.Context, s *show) (string, error) {
	bad := s.watcher.outcomes(func(r api.Rotation) bool {
		return r.State.Ended() && r.State != activities.Retired && r.State != activities.ProvenDead
	})
	if len(bad) > 0 {
		return "", fmt.Errorf("rotations ended otherwise: %v", bad)
	}
	c := s.load.Count()
	if c.Failed > 0 {
		return "", fmt.Errorf("%d of %d probes failed, first: %s", c.Failed, c.Probes, c.Failure)
	}
	return fmt.Sprintf("%d probes, longest gap %s", c.Probes, c.Longest.Round(time.Millisecond)), nil
}
