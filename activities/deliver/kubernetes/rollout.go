package kubernetes

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"castellan.dev/activities"
)

// Rollout restarts a workload for a Secret that it reads. It implements [deliver.Reloader].
//
// A restart has two steps, so that several certificates of one workload share one. A reload first
// announces its fingerprint in an annotation of the workload, which restarts nothing; the first
// announcement also fixes the moment of the restart, a window later. Whoever finds that moment passed
// moves all announced fingerprints into the pod template with one patch, and the others find theirs
// there. Both steps name the resource version that they were decided on, so they happen once; a
// repeated reload, before or after a crash, finds what is there and goes on from it.
//
// Rollout only starts the restart. Whether pods were replaced and use the certificate is for verifiers.
type Rollout struct {
	secret   object
	workload object
	read     func(context.Context, object) (workload, error)
	window   time.Duration
	now      func() time.Time
	sleep    func(context.Context, time.Duration) error
}

// attempts bounds how often one reload begins again because somebody else wrote the workload first.
// Its controller does so all the time while pods come and go.
const attempts = 20

// NewRollout returns the reload of the configured workload.
func NewRollout(client kubernetes.Interface, config RolloutConfig, now func() time.Time) (*Rollout, error) {
	if err := problems(config.Check); err != nil {
		return nil, err
	}
	kind, name, _ := strings.Cut(config.Workload, "/")
	known := workloadKinds[kind]
	return &Rollout{
		secret:   object{client.CoreV1().RESTClient(), "secrets", config.Namespace, config.Secret},
		workload: object{client.AppsV1().RESTClient(), known.resource, config.Namespace, name},
		read:     known.read,
		window:   config.window(),
		now:      now,
		sleep:    sleep,
	}, nil
}

// Reload restarts the workload once for the fingerprint, which the Secret must hold: a late reload for
// an earlier one is Fenced. It returns when the restart has begun.
func (r *Rollout) Reload(ctx context.Context, fingerprint string) error {
	var last error
	var latest time.Time // by our own clock, whatever moment another worker's clock has set
	for range attempts {
		w, err := r.read(ctx, r.workload)
		if err != nil {
			return err
		}
		if err := w.restartable(r.workload); err != nil {
			return err
		}
		done, wait, err := r.step(ctx, w, fingerprint, &latest)
		switch {
		case err == nil && done:
			return nil
		case err == nil && wait > 0:
			err = r.sleep(ctx, wait)
			if err != nil {
				return activities.Errorf(activities.Transient, "wait for the restart of %s: %w", r.workload, err)
			}
		case err != nil && activities.KindOf(err) != activities.Conflict && activities.KindOf(err) != activities.Uncertain:
			return err
		}
		last = err
	}
	if last == nil {
		last = activities.Errorf(activities.Conflict, "restart %s: others keep announcing restarts", r.workload)
	}
	return last
}

// step does the next thing that is missing: announce, wait, restart. A lost reply or another writer is
// no failure, because the next look shows what came of it.
func (r *Rollout) step(ctx context.Context, w workload, fingerprint string, latest *time.Time) (done bool, wait time.Duration, err error) {
	name := r.secret.name
	if w.pending == nil || w.pending.Fingerprints[name] != fingerprint {
		waiting := w.pending != nil && w.pending.Fingerprints[name] != ""
		if w.applied[name] == fingerprint && !waiting {
			return true, 0, nil
		}
		return false, 0, r.announce(ctx, w, fingerprint)
	}
	if latest.IsZero() {
		*latest = r.now().Add(r.window)
	}
	if wait = min(w.pending.At.Sub(r.now()), latest.Sub(r.now())); wait > 0 {
		return false, wait, nil
	}
	patch, err := w.restart()
	if err != nil {
		return false, 0, activities.Errorf(activities.Invalid, "restart %s: %w", r.workload, err)
	}
	if err := r.workload.patch(ctx, patch); err != nil {
		return false, 0, err
	}
	return true, 0, nil
}

func (r *Rollout) announce(ctx context.Context, w workload, fingerprint string) error {
	secret := new(corev1.Secret)
	if err := r.secret.get(ctx, secret); err != nil {
		return err
	}
	if held := read(secret).fingerprint(); held != fingerprint {
		return activities.Errorf(activities.Fenced, "restart %s: %s holds certificate %q, not %q", r.workload, r.secret, held, fingerprint)
	}
	patch, err := w.announce(r.secret.name, fingerprint, r.now().Add(r.window))
	if err != nil {
		return activities.Errorf(activities.Invalid, "restart %s: %w", r.workload, err)
	}
	return r.workload.patch(ctx, patch)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
