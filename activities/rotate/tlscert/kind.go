// Package tlscert is the rotation kind of TLS certificates: a new key for every rotation, signed by
// the configured issuer, delivered to where the consumers read it.
//
// The candidate is the key pair. It is durable in the store before the issuer hears of it; after a lost
// reply the same key is signed again, and the certificate that got lost is counted as
// issued-not-received. Key material leaves this package only towards a delivery.
package tlscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/store"
)

// Name is the kind's name in the configuration and in the inventory.
const Name = "certificate"

// Delivery is one place where the certificate is made visible, and how its readers are told.
type Delivery struct {
	Name      string
	Deliverer deliver.Deliverer
	Reloaders []deliver.Reloader
}

// RefusalProbe asks a peer of the certificate whether it still accepts the previous one.
type RefusalProbe interface {
	// Refused connects with the previous and with the sibling certificate. It is proven when the previous
	// is refused for revocation while the sibling is accepted. The sentence says what was seen.
	Refused(ctx context.Context, previous, sibling tls.Certificate) (proven bool, sentence string, err error)
}

// Peer is somebody who accepts or demands the certificate. A nil Probe is a peer that is known to check
// no revocation, or that cannot be asked: it is reported as not provable.
type Peer struct {
	Name  string
	Probe RefusalProbe
}

// Certificate is one target, resolved from the configuration of the worker that holds it.
type Certificate struct {
	Name        string
	CommonName  string
	DNSNames    []string
	IPAddresses []string
	URIs        []string
	Usage       string        // server, client or both; empty: both
	Algorithm   Algorithm     // empty: ecdsa-p256
	Lifetime    time.Duration // zero: the issuer's default
	Rekey       bool          // replace over the current certificate's own mTLS connection where the issuer can
	Issuer      issue.Issuer
	Bundle      func() ([]byte, error) // PEM of the trust anchors that clients hold today; nil: the issuer's roots
	Deliveries  []Delivery
	Peers       []Peer
}

// Kind rotates certificates.
type Kind struct {
	store        store.Store
	certificates func(name string) (Certificate, bool)
	now          func() time.Time
}

// New returns the kind. The function resolves a target's name in this worker's configuration.
func New(s store.Store, certificates func(name string) (Certificate, bool), now func() time.Time) *Kind {
	return &Kind{store: s, certificates: certificates, now: now}
}

func (k *Kind) resolve(target string) (Certificate, error) {
	certificate, ok := k.certificates(target)
	if !ok {
		return Certificate{}, activities.Errorf(activities.Invalid, "certificate %q is not in this worker's configuration", target)
	}
	return certificate, nil
}

// Observe says what the deliveries hold now. The first delivery speaks for the target; the others are
// listed, and the highest epoch of all counts for the fence.
func (k *Kind) Observe(ctx context.Context, target string) (rotate.Observation, error) {
	certificate, err := k.resolve(target)
	if err != nil {
		return rotate.Observation{}, err
	}
	observation := rotate.Observation{Delivered: map[string]string{}, Facts: map[string]string{}}
	for i, delivery := range certificate.Deliveries {
		visible, err := delivery.Deliverer.Observe(ctx)
		if err != nil {
			return rotate.Observation{}, err
		}
		observation.Epoch = max(observation.Epoch, visible.Epoch)
		observation.Delivered[delivery.Name] = visible.Fingerprint
		if i > 0 {
			continue
		}
		if leaf, err := leafOf(visible.Chain); err == nil {
			observation.Exists = true
			observation.Current = describe(leaf)
			observation.Leaf = leaf
			observation.Facts["issuer"] = leaf.Issuer.String()
		}
	}
	return observation, nil
}

// Mint makes the rotation's key pair durable. A repeat, also by another worker, finds the first one.
func (k *Kind) Mint(ctx context.Context, rotation rotate.Rotation) (activities.Candidate, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.Candidate{}, err
	}
	candidate, _, err := k.load(ctx, rotation.Target, rotation.Epoch)
	if activities.KindOf(err) == activities.NotFound && err != nil {
		candidate, err = k.mint(ctx, certificate, rotation)
	}
	if err != nil {
		return activities.Candidate{}, err
	}
	return candidate.describe()
}

func (k *Kind) mint(ctx context.Context, certificate Certificate, rotation rotate.Rotation) (material, error) {
	key, err := generate(certificate.Algorithm)
	if err != nil {
		return material{}, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return material{}, activities.Errorf(activities.Invalid, "encode key for %s: %w", rotation.ID, err)
	}
	fresh := material{Rotation: rotation.ID, Key: text}
	_, err = k.save(ctx, rotation.Target, rotation.Epoch, fresh, 0)
	switch activities.KindOf(err) {
	case activities.Conflict, activities.Uncertain:
		if err != nil { // another attempt was first, or our own write's reply was lost: what is stored counts
			found, _, err := k.load(ctx, rotation.Target, rotation.Epoch)
			return found, err
		}
	}
	return fresh, err
}

// Set has the candidate's key signed.
func (k *Kind) Set(ctx context.Context, rotation rotate.Rotation) (activities.Candidate, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.Candidate{}, err
	}
	candidate, version, err := k.load(ctx, rotation.Target, rotation.Epoch)
	if err != nil {
		return activities.Candidate{}, err
	}
	if len(candidate.Chain) > 0 {
		return candidate.describe()
	}
	// Counted before the issuer is asked: an attempt that finds a count and no chain knows that a
	// certificate may have been issued and never received.
	candidate.Asked++
	if version, err = k.save(ctx, rotation.Target, rotation.Epoch, candidate, version); err != nil {
		return activities.Candidate{}, err
	}
	signed, err := k.sign(ctx, certificate, rotation, candidate)
	if err != nil {
		return activities.Candidate{}, err
	}
	candidate.Chain = encodeChain(signed.Chain)
	if _, err = k.save(ctx, rotation.Target, rotation.Epoch, candidate, version); err != nil {
		return activities.Candidate{}, err
	}
	return candidate.describe()
}

func (k *Kind) sign(ctx context.Context, certificate Certificate, rotation rotate.Rotation, candidate material) (issue.Certificate, error) {
	key, err := decodeKey(candidate.Key)
	if err != nil {
		return issue.Certificate{}, err
	}
	csr, err := certificate.request(key)
	if err != nil {
		return issue.Certificate{}, err
	}
	request := issue.Request{CSR: csr, Lifetime: certificate.Lifetime}
	if rekeyer, ok := certificate.Issuer.(issue.Rekeyer); ok && certificate.Rekey {
		previous, err := k.pair(ctx, rotation.Target, rotation.Previous.Epoch)
		if err == nil && previous.Leaf.NotAfter.After(k.now().Add(time.Minute)) {
			signed, err := rekeyer.Rekey(ctx, previous, request)
			if kind := activities.KindOf(err); err == nil || kind != activities.Invalid && kind != activities.Denied {
				return signed, err
			}
			// The issuer cannot renew over this connection what is asked for now; a fresh issue can.
		}
	}
	return certificate.Issuer.Issue(ctx, request)
}

// Discard erases a candidate that was never published, or was taken back: in the store, and where a
// delivery kept it when the previous was restored.
func (k *Kind) Discard(ctx context.Context, rotation rotate.Rotation) error {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return err
	}
	var problems []error
	for _, delivery := range certificate.Deliveries {
		if err := delivery.Deliverer.Retire(ctx, rotation.Epoch); err != nil {
			problems = append(problems, fmt.Errorf("delivery %q: %w", delivery.Name, err))
		}
	}
	if err := k.erase(ctx, rotation.Target, rotation.Epoch); err != nil {
		problems = append(problems, err)
	}
	return together(problems)
}

// describe returns a certificate's public part.
func describe(leaf *x509.Certificate) activities.Candidate {
	id, err := keyID(leaf.PublicKey)
	if err != nil {
		id = ""
	}
	return activities.Candidate{
		KeyID:       id,
		Fingerprint: Fingerprint(leaf),
		Serial:      leaf.SerialNumber.String(),
		NotBefore:   leaf.NotBefore,
		NotAfter:    leaf.NotAfter,
		Key:         string(AlgorithmOf(leaf.PublicKey)),
	}
}
