package kubernetes

import (
	"context"
	"encoding/json"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"castellan.dev/activities"
)

const (
	// restartAnnotation, on the pod template, holds the fingerprints for which the workload was
	// restarted, by Secret. A change of it is what makes the controllers replace the pods.
	restartAnnotation = "castellan.dev/restart-fingerprints"
	// pendingAnnotation, on the workload itself, holds the fingerprints that wait for the next restart.
	// Nothing restarts for a change of it.
	pendingAnnotation = "castellan.dev/restart-pending"
)

// pending is a restart that was asked for.
type pending struct {
	At           time.Time         `json:"at"`
	Fingerprints map[string]string `json:"fingerprints"` // by Secret
}

// workload is the part of a workload that a restart needs.
type workload struct {
	version string            // resource version
	applied map[string]string // fingerprints by Secret for which it was restarted
	pending *pending          // nil: no restart is waiting
	paused  bool              // rollouts are held by a person
	manual  bool              // pods are replaced only by hand
}

// workloadKinds maps the kinds that can be restarted to how they are read.
var workloadKinds = map[string]struct {
	resource string
	read     func(context.Context, object) (workload, error)
}{
	"deployment":  {"deployments", readDeployment},
	"statefulset": {"statefulsets", readStatefulSet},
	"daemonset":   {"daemonsets", readDaemonSet},
}

func readDeployment(ctx context.Context, o object) (workload, error) {
	d := new(appsv1.Deployment)
	w, err := readInto(ctx, o, d, &d.ObjectMeta, &d.Spec.Template.ObjectMeta)
	w.paused = d.Spec.Paused
	return w, err
}

func readStatefulSet(ctx context.Context, o object) (workload, error) {
	s := new(appsv1.StatefulSet)
	w, err := readInto(ctx, o, s, &s.ObjectMeta, &s.Spec.Template.ObjectMeta)
	w.manual = s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
	return w, err
}

func readDaemonSet(ctx context.Context, o object) (workload, error) {
	d := new(appsv1.DaemonSet)
	w, err := readInto(ctx, o, d, &d.ObjectMeta, &d.Spec.Template.ObjectMeta)
	w.manual = d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
	return w, err
}

// readInto reads the object and the two annotations. One that does not decode counts as absent: the
// restart that follows writes it anew.
func readInto(ctx context.Context, o object, into runtime.Object, own, template *metav1.ObjectMeta) (workload, error) {
	if err := o.get(ctx, into); err != nil {
		return workload{}, err
	}
	w := workload{version: own.ResourceVersion}
	_ = json.Unmarshal([]byte(template.Annotations[restartAnnotation]), &w.applied)
	_ = json.Unmarshal([]byte(own.Annotations[pendingAnnotation]), &w.pending)
	return w, nil
}

// announce is the patch that adds a fingerprint to the pending restart, or opens one.
func (w workload) announce(secret, fingerprint string, at time.Time) ([]byte, error) {
	next := pending{At: at, Fingerprints: map[string]string{}}
	if w.pending != nil {
		next.At = w.pending.At
		maps.Copy(next.Fingerprints, w.pending.Fingerprints)
	}
	next.Fingerprints[secret] = fingerprint
	value, err := json.Marshal(next)
	if err != nil {
		return nil, err
	}
	return w.patch(string(value), nil)
}

// restart is the patch that carries out the pending restart.
func (w workload) restart() ([]byte, error) {
	applied := map[string]string{}
	maps.Copy(applied, w.applied)
	maps.Copy(applied, w.pending.Fingerprints)
	value, err := json.Marshal(applied) // keys sorted, so equal maps are equal annotations
	if err != nil {
		return nil, err
	}
	return w.patch(nil, map[string]any{
		"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{restartAnnotation: string(value)}}},
	})
}

// patch is a merge patch under the precondition that the workload is still as it was read.
func (w workload) patch(pending any, spec map[string]any) ([]byte, error) {
	merge := map[string]any{"metadata": map[string]any{
		"resourceVersion": w.version,
		"annotations":     map[string]any{pendingAnnotation: pending},
	}}
	if spec != nil {
		merge["spec"] = spec
	}
	return json.Marshal(merge)
}

// restartable refuses workloads that a change of the pod template does not restart.
func (w workload) restartable(o object) error {
	switch {
	case w.manual:
		return activities.Errorf(activities.Invalid, "restart %s: its update strategy is OnDelete, so nothing restarts it but deleting its pods", o)
	case w.paused:
		return activities.Errorf(activities.Conflict, "restart %s: somebody has paused its rollouts", o)
	}
	return nil
}
