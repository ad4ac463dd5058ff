package kubernetes_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/kubernetes"
)

// rolloutFixture is a Deployment and the Secrets that it reads. Time stands still until the test
// moves it, and a reload that waits says so.
type rolloutFixture struct {
	*fixture
	mu      sync.Mutex
	now     time.Time
	waiting chan time.Duration
	wake    chan struct{}
}

func newRolloutFixture(t *testing.T) *rolloutFixture {
	f := &rolloutFixture{fixture: newFixture(t), now: time.Unix(1_900_000_000, 0), waiting: make(chan time.Duration, 16), wake: make(chan struct{})}
	f.makeDeployment("orders")
	return f
}

func (f *rolloutFixture) makeDeployment(name string) {
	f.Helper()
	if _, err := f.client.AppsV1().Deployments(f.namespace).Create(f.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Selector: selector(), Template: template()},
	}, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	f.wantReplicaSets(1)
}

func selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "orders"}}
}

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: selector().MatchLabels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "orders", Image: "orders"}}},
	}
}

// hold puts a certificate into a Secret that the workload reads.
func (f *rolloutFixture) hold(secret string, m deliver.Material, expected string) {
	f.Helper()
	delivery, err := kubernetes.NewSecret(f.client, f.store, secret, kubernetes.Config{Namespace: f.namespace, Secret: secret})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := delivery.Publish(f.Context(), m, expected); err != nil {
		f.Fatal(err)
	}
}

func (f *rolloutFixture) rollout(c client.Interface, secret, workload string) *kubernetes.Rollout {
	f.Helper()
	rollout, err := kubernetes.NewRollout(c, kubernetes.RolloutConfig{Namespace: f.namespace, Secret: secret, Workload: workload, Window: 10 * time.Second}, f.clock)
	if err != nil {
		f.Fatal(err)
	}
	rollout.TestOnlySleep(func(ctx context.Context, d time.Duration) error {
		f.mu.Lock()
		wake := f.wake
		f.mu.Unlock()
		f.waiting <- d
		select {
		case <-wake:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return rollout
}

func (f *rolloutFixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *rolloutFixture) setClock(by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(by)
}

// advance ends the windows of all reloads that wait.
func (f *rolloutFixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	close(f.wake)
	f.wake = make(chan struct{})
}

// reload starts a reload and returns once it waits for its window.
func (f *rolloutFixture) reload(secret, fingerprint string) (result chan error) {
	f.Helper()
	result = make(chan error, 1)
	rollout := f.rollout(f.client, secret, "deployment/orders")
	go func() { result <- rollout.Reload(f.Context(), fingerprint) }()
	select {
	case <-f.waiting:
	case err := <-result:
		f.Fatalf("the reload for %q ended before its window: %v", secret, err)
	}
	return result
}

// reloadAtOnce reloads where there is no window to wait for.
func (f *rolloutFixture) reloadAtOnce(secret, fingerprint string) {
	f.Helper()
	result := make(chan error, 1)
	rollout := f.rollout(f.client, secret, "deployment/orders")
	go func() { result <- rollout.Reload(f.Context(), fingerprint) }()
	select {
	case err := <-result:
		if err != nil {
			f.Fatal(err)
		}
	case <-f.waiting:
		f.Fatalf("the reload for %q waits for a window", secret)
	}
}

func (f *rolloutFixture) wantDone(results ...chan error) {
	f.Helper()
	for _, result := range results {
		if err := <-result; err != nil {
			f.Errorf("reload: %v", err)
		}
	}
}

func (f *rolloutFixture) deployment() *appsv1.Deployment {
	f.Helper()
	d, err := f.client.AppsV1().Deployments(f.namespace).Get(f.Context(), "orders", metav1.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return d
}

// wantReplicaSets waits until the controller has seen the Deployment as it is, and counts what it made
// of it: one ReplicaSet per distinct pod template, so one more per restart.
func (f *rolloutFixture) wantReplicaSets(want int) {
	f.Helper()
	eventually(f.T, "the deployment controller has caught up", func() bool {
		d := f.deployment()
		return d.Status.ObservedGeneration == d.Generation
	})
	sets, err := f.client.AppsV1().ReplicaSets(f.namespace).List(f.Context(), metav1.ListOptions{})
	if err != nil {
		f.Fatal(err)
	}
	if len(sets.Items) != want {
		f.Errorf("the Deployment has %d ReplicaSets, want %d", len(sets.Items), want)
	}
}

func TestReloadRestartsOncePerFingerprint(t *testing.T) {
	f := newRolloutFixture(t)
	first, second := f.authority.Material(t, 1), f.authority.Material(t, 2)
	f.hold("orders-tls", first, "")
	result := f.reload("orders-tls", first.Fingerprint)
	f.wantReplicaSets(1)
	f.advance(10 * time.Second)
	f.wantDone(result)
	f.wantReplicaSets(2)

	for range 2 { // a repeat, as after a lost acknowledgement, neither waits nor restarts
		f.reloadAtOnce("orders-tls", first.Fingerprint)
	}
	f.wantReplicaSets(2)

	f.hold("orders-tls", second, first.Fingerprint)
	result = f.reload("orders-tls", second.Fingerprint)
	f.advance(10 * time.Second)
	f.wantDone(result)
	f.wantReplicaSets(3)
}

func TestCertificatesOfOneWindowShareOneRestart(t *testing.T) {
	f := newRolloutFixture(t)
	secrets := []string{"orders-tls", "orders-client", "orders-metrics"}
	var results []chan error
	for _, secret := range secrets {
		m := f.authority.Material(t, 1)
		f.hold(secret, m, "")
		results = append(results, f.reload(secret, m.Fingerprint))
	}
	f.wantReplicaSets(1)
	f.advance(10 * time.Second)
	f.wantDone(results...)
	f.wantReplicaSets(2)
	applied := f.deployment().Spec.Template.Annotations["castellan.dev/restart-fingerprints"]
	for _, secret := range secrets {
		if !strings.Contains(applied, secret) {
			t.Errorf("the restart was not for %q: %s", secret, applied)
		}
	}

	// Negative control: a certificate of the next window takes a restart of its own.
	m := f.authority.Material(t, 2)
	f.hold("orders-late", m, "")
	result := f.reload("orders-late", m.Fingerprint)
	f.advance(10 * time.Second)
	f.wantDone(result)
	f.wantReplicaSets(3)
}

func TestReloadGoesOnWhereAKilledOneStopped(t *testing.T) {
	f := newRolloutFixture(t)
	m := f.authority.Material(t, 1)
	f.hold("orders-tls", m, "")
	ctx, kill := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- f.rollout(f.client, "orders-tls", "deployment/orders").Reload(ctx, m.Fingerprint) }()
	<-f.waiting
	kill()
	f.wantKind(<-result, activities.Transient)
	f.advance(time.Hour)
	f.reloadAtOnce("orders-tls", m.Fingerprint)
	f.wantReplicaSets(2)
}

func TestReloadDoesNotWaitForAClockThatIsAhead(t *testing.T) {
	f := newRolloutFixture(t)
	m := f.authority.Material(t, 1)
	f.hold("orders-tls", m, "")
	ahead := f.rollout(f.client, "orders-tls", "deployment/orders")
	f.setClock(24 * time.Hour)
	ctx, kill := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- ahead.Reload(ctx, m.Fingerprint) }()
	<-f.waiting
	kill()
	<-result
	f.setClock(-24 * time.Hour)

	done := f.reload("orders-tls", m.Fingerprint)
	f.advance(10 * time.Second)
	f.wantDone(done)
	f.wantReplicaSets(2)
}

func TestLateReloadIsFenced(t *testing.T) {
	f := newRolloutFixture(t)
	first, second := f.authority.Material(t, 1), f.authority.Material(t, 2)
	f.hold("orders-tls", first, "")
	f.hold("orders-tls", second, first.Fingerprint)
	result := make(chan error, 1)
	rollout := f.rollout(f.client, "orders-tls", "deployment/orders")
	go func() { result <- rollout.Reload(t.Context(), first.Fingerprint) }()
	select {
	case err := <-result:
		f.wantKind(err, activities.Fenced)
	case <-f.waiting:
		t.Error("a restart was announced for a certificate that is no longer there")
	}
	f.wantReplicaSets(1)
}

func TestLostReplyToARestartDoesNotRestartTwice(t *testing.T) {
	f := newRolloutFixture(t)
	d, through := newDoor(t)
	m := f.authority.Material(t, 1)
	f.hold("orders-tls", m, "")
	d.on(http.MethodPatch, loseReply)
	result := make(chan error, 1)
	rollout := f.rollout(through, "orders-tls", "deployment/orders")
	go func() { result <- rollout.Reload(t.Context(), m.Fingerprint) }()
	<-f.waiting
	f.advance(10 * time.Second)
	f.wantDone(result)
	// The ReplicaSets are the fact. The number of requests is not: the deployment controller writes the
	// workload's status meanwhile, and a patch that meets it is refused by resourceVersion and sent again.
	f.wantReplicaSets(2)
	if patches := d.requests(http.MethodPatch); patches < 2 {
		t.Errorf("the reload sent %d patches, want an announcement and a restart", patches)
	}
}

func TestWorkloadsThatDoNotRestartAreRefused(t *testing.T) {
	f := newRolloutFixture(t)
	m := f.authority.Material(t, 1)
	f.hold("orders-tls", m, "")
	sets := f.client.AppsV1().DaemonSets(f.namespace)
	if _, err := sets.Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Spec: appsv1.DaemonSetSpec{
		Selector: selector(), Template: template(), UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.wantKind(f.rollout(f.client, "orders-tls", "daemonset/by-hand").Reload(t.Context(), m.Fingerprint), activities.Invalid)
	f.wantKind(f.rollout(f.client, "orders-tls", "statefulset/absent").Reload(t.Context(), m.Fingerprint), activities.NotFound)

	d := f.deployment()
	d.Spec.Paused = true
	if _, err := f.client.AppsV1().Deployments(f.namespace).Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.wantKind(f.rollout(f.client, "orders-tls", "deployment/orders").Reload(t.Context(), m.Fingerprint), activities.Conflict)
}

func TestStatefulSetsAndDaemonSetsRestartToo(t *testing.T) {
	f := newRolloutFixture(t)
	m := f.authority.Material(t, 1)
	f.hold("orders-tls", m, "")
	apps := f.client.AppsV1()
	if _, err := apps.StatefulSets(f.namespace).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "stateful"}, Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template()},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := apps.DaemonSets(f.namespace).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "daemon"}, Spec: appsv1.DaemonSetSpec{Selector: selector(), Template: template()},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for workload, revisions := range map[string]string{"statefulset/stateful": "StatefulSet", "daemonset/daemon": "DaemonSet"} {
		result := make(chan error, 1)
		rollout := f.rollout(f.client, "orders-tls", workload)
		go func() { result <- rollout.Reload(t.Context(), m.Fingerprint) }()
		<-f.waiting
		f.advance(10 * time.Second)
		f.wantDone(result)
		eventually(t, workload+" has a second revision", func() bool {
			list, err := apps.ControllerRevisions(f.namespace).List(t.Context(), metav1.ListOptions{})
			count := 0
			for _, revision := range list.Items {
				if err == nil && len(revision.OwnerReferences) == 1 && revision.OwnerReferences[0].Kind == revisions {
					count++
				}
			}
			return count == 2
		})
	}
}
