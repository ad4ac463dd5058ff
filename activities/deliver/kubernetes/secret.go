package kubernetes

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/store"
)

// Secret delivers to one TLS Secret. It implements [deliver.Deliverer].
type Secret struct {
	object object
	kept   kept
}

// NewSecret returns the delivery with the given name, which is where the store keeps what its
// publications replace.
func NewSecret(client kubernetes.Interface, previous store.Store, delivery string, config Config) (*Secret, error) {
	if err := problems(config.Check); err != nil {
		return nil, err
	}
	return &Secret{
		object: object{client.CoreV1().RESTClient(), "secrets", config.Namespace, config.Secret},
		kept:   kept{store: previous, delivery: delivery},
	}, nil
}

// Observe says what the Secret holds now.
func (s *Secret) Observe(ctx context.Context) (deliver.Visible, error) {
	_, held, err := s.get(ctx)
	return held.visible(), err
}

// Publish puts the material into the Secret in one update, under the precondition that nobody wrote
// the Secret since it was looked at here.
func (s *Secret) Publish(ctx context.Context, material deliver.Material, expected string) (deliver.Visible, error) {
	candidate, err := contentOf(material)
	if err != nil {
		return deliver.Visible{}, err
	}
	secret, held, err := s.get(ctx)
	if err != nil {
		return deliver.Visible{}, err
	}
	if done, err := s.decide(held, candidate, expected); done || err != nil {
		return held.visible(), err
	}
	if err := s.writable(secret); err != nil {
		return held.visible(), err
	}
	if held.leaf != nil {
		if err := s.kept.put(ctx, material.Epoch, held); err != nil {
			return held.visible(), err
		}
	}
	return s.write(ctx, secret, candidate, material.Epoch)
}

// decide compares what is held with what shall be published: done when it is there already, an error
// when it must not be written.
func (s *Secret) decide(held, candidate content, expected string) (done bool, err error) {
	switch {
	case held.unfenced:
		return false, activities.Errorf(activities.Conflict, "publish to %s: somebody changed the annotation %q", s.object, epochAnnotation)
	case held.epoch > candidate.epoch:
		return false, activities.Errorf(activities.Fenced, "publish epoch %d to %s: epoch %d has been here", candidate.epoch, s.object, held.epoch)
	case held.epoch == candidate.epoch && held.recorded != candidate.recorded:
		return false, activities.Errorf(activities.Fenced, "publish epoch %d to %s: another certificate was published under this epoch", candidate.epoch, s.object)
	case held.epoch == candidate.epoch && held.foreign:
		return false, activities.Errorf(activities.Conflict, "publish epoch %d to %s: somebody changed what was published under this epoch", candidate.epoch, s.object)
	case held.epoch == candidate.epoch:
		return true, nil
	case held.leaf == nil && !held.empty():
		return false, activities.Errorf(activities.Conflict, "publish to %s: it holds something that is not a certificate", s.object)
	case held.fingerprint() != expected:
		return false, activities.Errorf(activities.Conflict, "publish to %s: it holds certificate %q, not the expected %q", s.object, held.fingerprint(), expected)
	}
	return false, nil
}

// writable refuses Secrets that cannot take the content, before anything is kept or sent.
func (s *Secret) writable(secret *corev1.Secret) error {
	switch {
	case secret == nil:
		return nil
	case secret.DeletionTimestamp != nil:
		return activities.Errorf(activities.Conflict, "write %s: somebody is deleting it", s.object)
	case secret.Immutable != nil && *secret.Immutable:
		return activities.Errorf(activities.Invalid, "write %s: it is immutable; it can only be deleted and made again", s.object)
	case secret.Type != corev1.SecretTypeTLS:
		return activities.Errorf(activities.Invalid, "write %s: its type is %q, want %q", s.object, secret.Type, corev1.SecretTypeTLS)
	}
	return nil
}

// Restore puts back what the publication of epoch `of` replaced, under a newer epoch. It does so even
// if that publication never arrived, because the newer epoch then keeps it away.
func (s *Secret) Restore(ctx context.Context, of, under activities.Epoch) (deliver.Visible, error) {
	secret, held, err := s.get(ctx)
	if err != nil {
		return deliver.Visible{}, err
	}
	if held.epoch > under || held.epoch > of && held.epoch < under {
		return held.visible(), activities.Errorf(activities.Fenced, "restore what epoch %d replaced in %s, under epoch %d: epoch %d has been here", of, s.object, under, held.epoch)
	}
	previous, err := s.kept.get(ctx, of)
	if err != nil {
		return held.visible(), err
	}
	if done, err := s.decideRestore(held, previous, of, under); done || err != nil {
		return held.visible(), err
	}
	if err := s.writable(secret); err != nil {
		return held.visible(), err
	}
	return s.write(ctx, secret, previous, under)
}

// decideRestore compares what is held with what shall come back: done when it is there already, an
// error when what is held is neither what the publication wrote nor what it found.
func (s *Secret) decideRestore(held, previous content, of, under activities.Epoch) (done bool, err error) {
	untouched := held.epoch == of && !held.foreign || held.epoch < of && held.same(previous)
	switch {
	case held.epoch == under && held.recorded != previous.fingerprint():
		return false, activities.Errorf(activities.Fenced, "restore %s under epoch %d: another certificate was published under it", s.object, under)
	case held.epoch == under && !held.foreign:
		return true, nil
	case !held.exists || held.unfenced || !untouched:
		return false, activities.Errorf(activities.Conflict, "restore %s: it does not hold what epoch %d published or found", s.object, of)
	}
	return false, nil
}

// Retire erases what the publications up to epoch replaced.
func (s *Secret) Retire(ctx context.Context, epoch activities.Epoch) error {
	return s.kept.eraseUntil(ctx, epoch)
}

// get returns the Secret, nil if it is absent, and its content.
func (s *Secret) get(ctx context.Context) (*corev1.Secret, content, error) {
	secret := new(corev1.Secret)
	err := s.object.get(ctx, secret)
	if activities.KindOf(err) == activities.NotFound {
		return nil, content{}, nil
	}
	if err != nil {
		return nil, content{}, err
	}
	return secret, read(secret), nil
}

// write makes the content visible and says what is visible then. When the outcome is unknown, or
// somebody else was faster, it looks again: a write whose reply was lost has happened.
func (s *Secret) write(ctx context.Context, secret *corev1.Secret, c content, epoch activities.Epoch) (deliver.Visible, error) {
	written := new(corev1.Secret)
	var err error
	if secret == nil {
		secret = &corev1.Secret{Type: corev1.SecretTypeTLS, ObjectMeta: metav1.ObjectMeta{
			Name: s.object.name, Namespace: s.object.namespace,
			Labels: map[string]string{"app.kubernetes.io/managed-by": manager},
		}}
		c.writeTo(secret, epoch)
		err = s.object.create(ctx, secret, written)
	} else {
		secret = secret.DeepCopy()
		c.writeTo(secret, epoch)
		err = s.object.update(ctx, secret, written)
	}
	held := read(written)
	switch activities.KindOf(err) {
	case activities.Conflict, activities.Uncertain:
		_, again, readErr := s.get(ctx)
		if readErr != nil {
			return deliver.Visible{}, err
		}
		if again.epoch != epoch || again.foreign || again.recorded != c.fingerprint() {
			return again.visible(), settled(err)
		}
		held, err = again, nil
	}
	if err != nil {
		return deliver.Visible{}, err
	}
	if held.epoch != epoch || held.foreign || held.recorded != c.fingerprint() {
		return held.visible(), activities.Errorf(activities.Conflict, "write %s: the cluster made something else of it", s.object)
	}
	return held.visible(), nil
}
