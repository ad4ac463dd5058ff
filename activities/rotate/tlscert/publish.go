package tlscert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/rotate"
)

// Publish makes the candidate visible through the named deliveries and tells their readers.
func (k *Kind) Publish(ctx context.Context, rotation rotate.Rotation, deliveries []string) (activities.Proof, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.Proof{}, err
	}
	pair, err := k.pair(ctx, rotation.Target, rotation.Epoch)
	if err != nil {
		return activities.Proof{}, err
	}
	stored, _, err := k.load(ctx, rotation.Target, rotation.Epoch)
	if err != nil {
		return activities.Proof{}, err
	}
	bundle, err := certificate.bundle(ctx)
	if err != nil {
		return activities.Proof{}, err
	}
	published := deliver.Material{
		Rotation: rotation.ID, Epoch: rotation.Epoch, Fingerprint: Fingerprint(pair.Leaf),
		Chain: stored.Chain, Key: stored.Key, Bundle: bundle, NotAfter: pair.Leaf.NotAfter,
	}
	for _, name := range deliveries {
		delivery, err := certificate.delivery(name)
		if err != nil {
			return activities.Proof{}, err
		}
		if err := publishOne(ctx, delivery, published, rotation.Expected[name]); err != nil {
			return activities.Proof{}, fmt.Errorf("delivery %q: %w", name, err)
		}
	}
	return activities.Proof{At: k.now().UTC(), Sentence: "visible through " + strings.Join(deliveries, ", ")}, nil
}

// publishOne writes unless the candidate is visible already, looks again, and tells the readers.
func publishOne(ctx context.Context, delivery Delivery, published deliver.Material, expected string) error {
	visible, err := delivery.Deliverer.Publish(ctx, published, expected)
	if err != nil {
		return err
	}
	if visible.Fingerprint != published.Fingerprint {
		return activities.Errorf(activities.Conflict, "published %s, but %s is visible", published.Fingerprint, visible.Fingerprint)
	}
	return reload(ctx, delivery, published.Fingerprint)
}

func reload(ctx context.Context, delivery Delivery, fingerprint string) error {
	for _, reloader := range delivery.Reloaders {
		if err := reloader.Reload(ctx, fingerprint); err != nil {
			return fmt.Errorf("reload: %w", err)
		}
	}
	return nil
}

// Restore makes the previous certificate visible again wherever the candidate came, under a newer epoch.
func (k *Kind) Restore(ctx context.Context, rotation rotate.Rotation, under activities.Epoch, deliveries []string) (activities.Proof, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.Proof{}, err
	}
	if !rotation.Previous.NotAfter.IsZero() && !rotation.Previous.NotAfter.After(k.now()) {
		return activities.Proof{}, &activities.Error{Kind: activities.Failed, Final: true,
			Detail: fmt.Sprintf("restore %q: the previous certificate expired %s", rotation.Target, rotation.Previous.NotAfter.UTC())}
	}
	var restored []string
	var problems []error // of one delivery: the others get their credential back all the same
	for _, name := range deliveries {
		delivery, err := certificate.delivery(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		visible, err := k.restoreOne(ctx, certificate, delivery, rotation, under)
		if err == nil && visible.Fingerprint == "" {
			continue // the candidate never came here
		}
		if err == nil {
			err = reload(ctx, delivery, visible.Fingerprint)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("delivery %q: %w", name, err))
			continue
		}
		restored = append(restored, name)
	}
	if err := together(problems); err != nil {
		return activities.Proof{}, err
	}
	sentence := "nothing had been published"
	if len(restored) > 0 {
		sentence = "previous restored through " + strings.Join(restored, ", ")
	}
	return activities.Proof{At: k.now().UTC(), Sentence: sentence}, nil
}

// restoreOne puts back what one delivery held before. Where it held nothing, and shows the candidate now,
// the previous certificate is published there from the store.
func (k *Kind) restoreOne(ctx context.Context, certificate Certificate, delivery Delivery, rotation rotate.Rotation, under activities.Epoch) (deliver.Visible, error) {
	visible, err := delivery.Deliverer.Restore(ctx, rotation.Epoch, under)
	if err == nil || activities.KindOf(err) != activities.NotFound {
		return visible, err
	}
	visible, err = delivery.Deliverer.Observe(ctx)
	if err != nil || visible.Fingerprint == "" || visible.Fingerprint == rotation.Expected[delivery.Name] {
		return deliver.Visible{}, err
	}
	if visible.Foreign {
		return deliver.Visible{}, activities.Errorf(activities.Conflict, "%s is visible, which castellan did not put there", visible.Fingerprint)
	}
	pair, err := k.pair(ctx, rotation.Target, rotation.Previous.Epoch)
	if err != nil {
		return deliver.Visible{}, &activities.Error{Kind: activities.Failed, Final: true, Cause: err,
			Detail: "the candidate is visible, nothing was there before, and castellan does not hold the previous certificate: " + err.Error()}
	}
	stored, _, err := k.load(ctx, rotation.Target, rotation.Previous.Epoch)
	if err != nil {
		return deliver.Visible{}, err
	}
	bundle, err := certificate.bundle(ctx)
	if err != nil {
		return deliver.Visible{}, err
	}
	return delivery.Deliverer.Publish(ctx, deliver.Material{
		Rotation: rotation.ID, Epoch: under, Fingerprint: Fingerprint(pair.Leaf), Chain: stored.Chain, Key: stored.Key,
		Bundle: bundle, NotAfter: pair.Leaf.NotAfter,
	}, visible.Fingerprint)
}

// Retire erases the previous key: in the store and wherever a delivery kept it.
func (k *Kind) Retire(ctx context.Context, rotation rotate.Rotation) (activities.Proof, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.Proof{}, err
	}
	var problems []error
	for _, delivery := range certificate.Deliveries {
		if err := delivery.Deliverer.Retire(ctx, rotation.Epoch); err != nil {
			problems = append(problems, fmt.Errorf("delivery %q: %w", delivery.Name, err))
		}
	}
	for _, epoch := range append([]activities.Epoch{rotation.Previous.Epoch}, rotation.Leftover...) {
		if epoch == 0 || epoch == rotation.Epoch {
			continue
		}
		if err := k.erase(ctx, rotation.Target, epoch); err != nil {
			problems = append(problems, err)
		}
	}
	if err := together(problems); err != nil {
		return activities.Proof{}, err
	}
	sentence := "there was no previous certificate"
	if rotation.Previous.Fingerprint != "" {
		end := rotation.Previous.NotAfter.UTC().Format("2006-01-02T15:04:05Z")
		sentence = "previous key erased; its certificate stays valid until " + end + " unless revoked"
		if rotation.Compromise { // its death was proven before, or named as not provable
			sentence = "previous key erased; its revoked certificate ends by itself at " + end
		}
	}
	return activities.Proof{At: k.now().UTC(), Sentence: sentence}, nil
}

// together joins problems. One that may go away decides the kind, because then the rest is tried again, too.
func together(problems []error) error {
	slices.SortStableFunc(problems, func(a, b error) int { return cmp.Compare(lasting(a), lasting(b)) })
	return errors.Join(problems...)
}

func lasting(err error) int {
	switch activities.KindOf(err) {
	case activities.Transient, activities.Throttled, activities.Uncertain:
		return 0
	}
	return 1
}

func (c Certificate) delivery(name string) (Delivery, error) {
	i := slices.IndexFunc(c.Deliveries, func(d Delivery) bool { return d.Name == name })
	if i < 0 {
		return Delivery{}, activities.Errorf(activities.Invalid, "certificate %q has no delivery %q in this worker's configuration", c.Name, name)
	}
	return c.Deliveries[i], nil
}

func (c Certificate) bundle(ctx context.Context) ([]byte, error) {
	if c.Bundle != nil {
		text, err := c.Bundle()
		if err != nil {
			return nil, activities.Errorf(activities.Transient, "certificate %q: read the clients' bundle: %w", c.Name, err)
		}
		return text, nil
	}
	roots, err := c.Issuer.Roots(ctx)
	if err != nil {
		return nil, err
	}
	return encodeChain(roots), nil
}
