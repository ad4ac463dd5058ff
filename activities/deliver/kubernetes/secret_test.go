package kubernetes_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/kubernetes"
	"castellan.dev/activities/store"
	"castellan.dev/testsuite/conformance"
	"castellan.dev/testsuite/fault"
)

// fixture is one Secret's delivery in a namespace of its own.
type fixture struct {
	*testing.T
	client    client.Interface // with every right, not through a door
	namespace string
	store     store.Store
	authority *conformance.Authority
}

const secretName = "orders-tls"

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return &fixture{t, cluster.Client(), cluster.Namespace(t), newStore(t), conformance.NewAuthority(t, "orders")}
}

// delivery returns the delivery as a process with that client would have it.
func (f *fixture) delivery(c client.Interface) *kubernetes.Secret {
	f.Helper()
	secret, err := kubernetes.NewSecret(c, f.store, "orders", kubernetes.Config{Namespace: f.namespace, Secret: secretName})
	if err != nil {
		f.Fatal(err)
	}
	return secret
}

func (f *fixture) publish(m deliver.Material, expected string) {
	f.Helper()
	if _, err := f.delivery(f.client).Publish(f.Context(), m, expected); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) secret() *corev1.Secret {
	f.Helper()
	secret, err := f.client.CoreV1().Secrets(f.namespace).Get(f.Context(), secretName, metav1.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return secret
}

// change writes the Secret as somebody else would, and makes it if need be.
func (f *fixture) change(change func(*corev1.Secret)) error {
	secrets := f.client.CoreV1().Secrets(f.namespace)
	secret, err := secrets.Get(f.Context(), secretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{}}
		change(secret)
		_, err = secrets.Create(f.Context(), secret, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	change(secret)
	_, err = secrets.Update(f.Context(), secret, metav1.UpdateOptions{})
	return err
}

func (f *fixture) wantKind(err error, want activities.Kind) {
	f.Helper()
	if err == nil || activities.KindOf(err) != want {
		f.Errorf("got %v (kind %q), want kind %q", err, activities.KindOf(err), want)
	}
}

func (f *fixture) wantFingerprint(want string) {
	f.Helper()
	seen, err := f.delivery(f.client).Observe(f.Context())
	if err != nil || seen.Fingerprint != want {
		f.Errorf("the Secret holds %q (%v), want %q", seen.Fingerprint, err, want)
	}
}

func TestSecretKeepsTheDeliveryContract(t *testing.T) {
	conformance.RunDeliverer(t, func(t *testing.T) conformance.Delivery {
		f := newFixture(t)
		proxy, err := fault.New(cluster.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proxy.Close() })
		kubeconfig := cluster.KubeconfigVia(t, proxy.Address())
		return conformance.Delivery{
			Deliverer: f.delivery(connect(t, kubeconfig)),
			Another:   func() deliver.Deliverer { return f.delivery(connect(t, kubeconfig)) },
			Read: func() (chain, key []byte, err error) {
				secret, err := f.client.CoreV1().Secrets(f.namespace).Get(t.Context(), secretName, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil, nil, nil
				}
				if err != nil {
					return nil, nil, err
				}
				return secret.Data["tls.crt"], secret.Data["tls.key"], nil
			},
			Foreign: func(chain, key []byte) error {
				return f.change(func(s *corev1.Secret) { s.Data["tls.crt"], s.Data["tls.key"] = chain, key })
			},
			Kept: func() ([]byte, error) { return f.kept(), nil },
			Break: func() func() {
				set(t, proxy, fault.Cut)
				return func() { set(t, proxy, fault.Pass) }
			},
		}
	})
}

func set(t *testing.T, proxy *fault.Proxy, mode fault.Mode) {
	t.Helper()
	if err := proxy.Set(mode); err != nil {
		t.Fatal(err)
	}
}

func TestPublishLeavesEverythingElseAsItIs(t *testing.T) {
	f := newFixture(t)
	owner, err := f.client.CoreV1().ConfigMaps(f.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reference := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}
	first, second := f.authority.Material(t, 1), f.authority.Material(t, 2)
	f.publish(first, "")
	if err := f.change(func(s *corev1.Secret) {
		s.Data["truststore.jks"] = []byte("theirs")
		s.Labels["team"] = "orders"
		s.Annotations["example.test/note"] = "theirs"
		s.OwnerReferences = []metav1.OwnerReference{reference}
	}); err != nil {
		t.Fatal(err)
	}
	f.publish(second, first.Fingerprint)

	got := f.secret()
	wantData := map[string][]byte{"tls.crt": second.Chain, "tls.key": second.Key, "ca.crt": second.Bundle, "truststore.jks": []byte("theirs")}
	if diff := cmp.Diff(wantData, got.Data); diff != "" {
		t.Errorf("data differs in %d places", strings.Count(diff, "\n"))
	}
	if got.Type != corev1.SecretTypeTLS || got.Labels["team"] != "orders" || got.Annotations["example.test/note"] != "theirs" {
		t.Errorf("type %q, labels %v, annotations %v: theirs are not all there", got.Type, got.Labels, got.Annotations)
	}
	if diff := cmp.Diff([]metav1.OwnerReference{reference}, got.OwnerReferences); diff != "" {
		t.Errorf("owner references (-want +got):\n%s", diff)
	}
	for annotation, want := range map[string]string{
		"castellan.dev/fingerprint": second.Fingerprint, "castellan.dev/rotation": string(second.Rotation), "castellan.dev/epoch": "2",
	} {
		if got.Annotations[annotation] != want {
			t.Errorf("annotation %s is %q, want %q", annotation, got.Annotations[annotation], want)
		}
	}
}

func TestBundleThatIsNotOursStays(t *testing.T) {
	f := newFixture(t)
	bare := func(epoch activities.Epoch) deliver.Material {
		m := f.authority.Material(t, epoch)
		m.Bundle = nil
		return m
	}
	theirs := f.authority.Material(t, 9)
	if err := f.change(func(s *corev1.Secret) {
		s.Data["tls.crt"], s.Data["tls.key"], s.Data["ca.crt"] = theirs.Chain, theirs.Key, []byte("their anchors")
	}); err != nil {
		t.Fatal(err)
	}
	first, second, third := bare(1), f.authority.Material(t, 2), bare(3)
	f.publish(first, theirs.Fingerprint)
	if got := string(f.secret().Data["ca.crt"]); got != "their anchors" {
		t.Errorf("after a publication without a bundle ca.crt is %q", got)
	}
	f.publish(second, first.Fingerprint)
	if got := f.secret().Data["ca.crt"]; string(got) != string(second.Bundle) {
		t.Errorf("ca.crt is not the published bundle")
	}
	f.publish(third, second.Fingerprint)
	if got, there := f.secret().Data["ca.crt"]; there {
		t.Errorf("our own bundle of an earlier epoch stayed: %d bytes", len(got))
	}
	if _, err := f.delivery(f.client).Restore(t.Context(), 2, 4); activities.KindOf(err) != activities.Fenced {
		t.Errorf("restoring below a later publication: got %v, want fenced", err)
	}
	if _, err := f.delivery(f.client).Restore(t.Context(), 3, 4); err != nil {
		t.Fatal(err)
	}
	if got := f.secret().Data["ca.crt"]; string(got) != string(second.Bundle) {
		t.Errorf("the restore did not bring the bundle back")
	}
}

func TestSecretsThatCannotBeWrittenAreRefusedClearly(t *testing.T) {
	immutable := true
	for name, c := range map[string]struct {
		spoil  func(*corev1.Secret)
		delete bool
		kind   activities.Kind
		says   string
	}{
		"an immutable Secret":            {spoil: func(s *corev1.Secret) { s.Immutable = &immutable }, kind: activities.Invalid, says: "immutable"},
		"a Secret of another type":       {spoil: func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, kind: activities.Invalid, says: `want "kubernetes.io/tls"`},
		"a Secret that is being deleted": {spoil: func(s *corev1.Secret) { s.Finalizers = []string{"example.test/wait"} }, delete: true, kind: activities.Conflict, says: "deleting"},
		"content that is no certificate": {spoil: func(s *corev1.Secret) { s.Data["tls.crt"] = []byte("no PEM") }, kind: activities.Conflict, says: "not a certificate"},
		"a fence that cannot be read": {spoil: func(s *corev1.Secret) {
			s.Annotations = map[string]string{"castellan.dev/epoch": "seven"}
		}, kind: activities.Conflict, says: "castellan.dev/epoch"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			theirs, m := f.authority.Material(t, 9), f.authority.Material(t, 1)
			if err := f.change(func(s *corev1.Secret) {
				s.Data["tls.crt"], s.Data["tls.key"] = theirs.Chain, theirs.Key
				c.spoil(s)
			}); err != nil {
				t.Fatal(err)
			}
			if c.delete {
				if err := f.client.CoreV1().Secrets(f.namespace).Delete(t.Context(), secretName, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = f.change(func(s *corev1.Secret) { s.Finalizers = nil }) })
			}
			before := f.secret()
			_, err := f.delivery(f.client).Publish(t.Context(), m, theirs.Fingerprint)
			f.wantKind(err, c.kind)
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error %q does not say %q", err, c.says)
			}
			if after := f.secret(); after.ResourceVersion != before.ResourceVersion {
				t.Error("the Secret was written")
			}
			if len(f.kept()) > 0 {
				t.Error("a refused publication kept something")
			}
		})
	}
}

func TestOneWriteMakesAPublication(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first, second := f.authority.Material(t, 1), f.authority.Material(t, 2)
	for range 2 { // the second finds it done
		if _, err := f.delivery(through).Publish(t.Context(), first, ""); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := f.delivery(through).Publish(t.Context(), second, first.Fingerprint); err != nil {
			t.Fatal(err)
		}
	}
	if posts, puts := d.requests(http.MethodPost), d.requests(http.MethodPut); posts != 1 || puts != 1 {
		t.Errorf("two publications took %d creations and %d updates, want one of each", posts, puts)
	}
}

func TestLostRepliesAreSettledByLookingAgain(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first, second := f.authority.Material(t, 1), f.authority.Material(t, 2)

	d.on(http.MethodPost, loseReply)
	if _, err := f.delivery(through).Publish(t.Context(), first, ""); err != nil {
		t.Errorf("creation with a lost reply: %v", err)
	}
	d.on(http.MethodPut, loseReply)
	if _, err := f.delivery(through).Publish(t.Context(), second, first.Fingerprint); err != nil {
		t.Errorf("update with a lost reply: %v", err)
	}
	f.wantFingerprint(second.Fingerprint)
	if _, err := f.delivery(through).Restore(t.Context(), 2, 3); err != nil {
		t.Errorf("restore with a lost reply: %v", err)
	}
	f.wantFingerprint(first.Fingerprint)

	// Negative control: a request that never arrives looks the same to the caller and is not a success.
	d.on(http.MethodPut, func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	third := f.authority.Material(t, 4)
	_, err := f.delivery(through).Publish(t.Context(), third, first.Fingerprint)
	f.wantKind(err, activities.Uncertain)
	f.wantFingerprint(first.Fingerprint)
	f.publish(third, first.Fingerprint)
}

func TestWriterThatComesBetweenLookAndWriteIsNotOverwritten(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first, second, theirs := f.authority.Material(t, 1), f.authority.Material(t, 2), f.authority.Material(t, 9)
	f.publish(first, "")
	d.on(http.MethodPut, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if err := f.change(func(s *corev1.Secret) { s.Data["tls.crt"], s.Data["tls.key"] = theirs.Chain, theirs.Key }); err != nil {
			t.Error(err)
		}
		forward.ServeHTTP(w, r)
	})
	_, err := f.delivery(through).Publish(t.Context(), second, first.Fingerprint)
	f.wantKind(err, activities.Conflict)
	f.wantFingerprint(theirs.Fingerprint)
}

// A zombie decided on what it saw, was stopped, and goes on after a newer epoch has been there.
func TestZombieWriterIsRefused(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first, late, newer := f.authority.Material(t, 1), f.authority.Material(t, 2), f.authority.Material(t, 3)
	f.publish(first, "")
	d.on(http.MethodPut, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		f.publish(newer, first.Fingerprint)
		forward.ServeHTTP(w, r)
	})
	zombie := f.delivery(through)
	_, err := zombie.Publish(t.Context(), late, first.Fingerprint)
	f.wantKind(err, activities.Conflict)
	f.wantFingerprint(newer.Fingerprint)
	_, err = zombie.Publish(t.Context(), late, newer.Fingerprint)
	f.wantKind(err, activities.Fenced)
	f.wantFingerprint(newer.Fingerprint)
}

func TestRolledBackKeyIsErasedWithTheNextRetirement(t *testing.T) {
	f := newFixture(t)
	first, failed, next := f.authority.Material(t, 1), f.authority.Material(t, 2), f.authority.Material(t, 4)
	f.publish(first, "")
	f.publish(failed, first.Fingerprint)
	if _, err := f.delivery(f.client).Restore(t.Context(), 2, 3); err != nil {
		t.Fatal(err)
	}
	f.publish(next, first.Fingerprint)
	if err := f.delivery(f.client).Retire(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if kept := f.kept(); len(kept) > 0 {
		t.Errorf("%d bytes are kept after the retirement", len(kept))
	}
}

func TestAnswersGetTheirKind(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first := f.authority.Material(t, 1)
	f.publish(first, "")
	next := f.authority.Material(t, 2)
	for code := 400; code < 600; code++ {
		want := map[bool]activities.Kind{true: activities.Invalid, false: activities.Transient}[code < 500]
		switch code {
		case 401, 403:
			want = activities.Denied
		case 404, 410:
			want = activities.NotFound
		case 409, 412:
			want = activities.Conflict
		case 429:
			want = activities.Throttled
		case 408, 504:
			want = activities.Uncertain
		}
		answer := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(code)
			_, _ = fmt.Fprint(w, "the vendor's words")
		}
		before := d.requests(http.MethodPut)
		d.on(http.MethodPut, answer)
		_, err := f.delivery(through).Publish(t.Context(), next, first.Fingerprint)
		if got := activities.KindOf(err); err == nil || got != want {
			t.Errorf("a write answered with %d: got %v (kind %q), want %q", code, err, got, want)
		}
		if sent := d.requests(http.MethodPut) - before; sent != 1 {
			t.Errorf("a write answered with %d was sent %d times", code, sent)
		}
		var own *activities.Error
		if code == 429 && (!errors.As(err, &own) || own.RetryAfter != 7*time.Second) {
			t.Errorf("a throttled write: got %+v, want to be told to wait 7s", own)
		}
		if err != nil && strings.Contains(err.Error(), string(next.Key)) {
			t.Fatalf("a write answered with %d: the error holds the key", code)
		}
	}
	f.wantFingerprint(first.Fingerprint)
}

func TestServerThatIsAwayIsTransientAndItsReturnIsEnough(t *testing.T) {
	f := newFixture(t)
	delivery := f.delivery(connect(t, cluster.Kubeconfig()))
	m := f.authority.Material(t, 1)
	cluster.Kill()
	_, err := delivery.Publish(t.Context(), m, "")
	f.wantKind(err, activities.Transient)
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := delivery.Publish(t.Context(), m, ""); err != nil {
		t.Fatal(err)
	}
	f.wantFingerprint(m.Fingerprint)
}

// A worker is killed, or cut off, between keeping what was there and writing the Secret.
func TestKeptIsWhatThePublicationReplacesInTheEnd(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first, theirs, second := f.authority.Material(t, 1), f.authority.Material(t, 9), f.authority.Material(t, 2)
	f.publish(first, "")
	d.on(http.MethodPut, func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	_, err := f.delivery(through).Publish(t.Context(), second, first.Fingerprint)
	f.wantKind(err, activities.Uncertain)
	if err := f.change(func(s *corev1.Secret) { s.Data["tls.crt"], s.Data["tls.key"] = theirs.Chain, theirs.Key }); err != nil {
		t.Fatal(err)
	}
	f.publish(second, theirs.Fingerprint)
	if kept := f.kept(); strings.Contains(string(kept), string(first.Key)) || !strings.Contains(string(kept), string(theirs.Key)) {
		t.Error("kept is not what the publication replaced")
	}
	if _, err := f.delivery(f.client).Restore(t.Context(), 2, 3); err != nil {
		t.Fatal(err)
	}
	f.wantFingerprint(theirs.Fingerprint)
}

func TestRestoreFencesAPublicationThatIsStillOnItsWay(t *testing.T) {
	f := newFixture(t)
	d, through := newDoor(t)
	first, second := f.authority.Material(t, 1), f.authority.Material(t, 2)
	f.publish(first, "")
	d.on(http.MethodPut, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if _, err := f.delivery(f.client).Restore(t.Context(), 2, 3); err != nil {
			t.Errorf("restore before the publication arrived: %v", err)
		}
		forward.ServeHTTP(w, r)
	})
	_, err := f.delivery(through).Publish(t.Context(), second, first.Fingerprint)
	f.wantKind(err, activities.Conflict)
	f.wantFingerprint(first.Fingerprint)
	if epoch := f.secret().Annotations["castellan.dev/epoch"]; epoch != "3" {
		t.Errorf("the fence is at epoch %s, want 3", epoch)
	}
}
