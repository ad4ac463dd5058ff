package kubernetes

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// The annotations that castellan writes beside the content. They are API: never change one.
const (
	fingerprintAnnotation = "castellan.dev/fingerprint"   // of the leaf
	rotationAnnotation    = "castellan.dev/rotation"      // which rotation the content came from
	epochAnnotation       = "castellan.dev/epoch"         // the fence
	chainAnnotation       = "castellan.dev/chain-sha256"  // of tls.crt's bytes
	bundleAnnotation      = "castellan.dev/bundle-sha256" // of ca.crt's bytes; absent: ca.crt is not castellan's
)

const bundleKey = "ca.crt"

// content is what a Secret holds and what castellan recorded about it. The zero value is an absent
// Secret.
type content struct {
	Chain    []byte `json:"chain"`
	Key      []byte `json:"key"` // secret
	Bundle   []byte `json:"bundle,omitempty"`
	Bundled  bool   `json:"bundled,omitempty"` // the bundle is castellan's own
	Rotation string `json:"rotation,omitempty"`

	exists   bool
	leaf     *x509.Certificate // nil: nothing readable
	epoch    activities.Epoch
	recorded string // fingerprint that castellan last wrote
	foreign  bool
	unfenced bool // the fence is there and cannot be read
}

// read takes the content out of a Secret.
func read(secret *corev1.Secret) content {
	if secret == nil {
		return content{}
	}
	c := content{
		Chain:    secret.Data[corev1.TLSCertKey],
		Key:      secret.Data[corev1.TLSPrivateKeyKey],
		Bundle:   secret.Data[bundleKey],
		Rotation: secret.Annotations[rotationAnnotation],
		exists:   true,
		recorded: secret.Annotations[fingerprintAnnotation],
	}
	c.leaf = leafOf(c.Chain)
	if fence, ok := secret.Annotations[epochAnnotation]; ok {
		epoch, err := strconv.ParseUint(fence, 10, 64)
		c.epoch, c.unfenced = activities.Epoch(epoch), err != nil
	}
	bundleDigest, bundled := secret.Annotations[bundleAnnotation]
	c.Bundled = bundled
	switch {
	case c.unfenced:
		c.foreign = true
	case c.empty():
		c.foreign = c.epoch > 0
	default: // without a fence no annotation is castellan's, and so nothing fits
		c.foreign = c.epoch == 0 || c.leaf == nil || c.fingerprint() != c.recorded || digest(c.Chain) != secret.Annotations[chainAnnotation] ||
			bundled && digest(c.Bundle) != bundleDigest || !pair(c.Chain, c.Key)
	}
	return c
}

// empty reports whether the Secret is absent or a place holder without content.
func (c content) empty() bool { return len(c.Chain) == 0 && len(c.Key) == 0 }

func (c content) fingerprint() string {
	if c.leaf == nil {
		return ""
	}
	return digest(c.leaf.Raw)
}

// same reports whether both hold the same certificate, key and bundle.
func (c content) same(other content) bool {
	return subtle.ConstantTimeCompare(c.Chain, other.Chain)&
		subtle.ConstantTimeCompare(c.Key, other.Key)&
		subtle.ConstantTimeCompare(c.Bundle, other.Bundle) == 1
}

// visible is the public part of the content.
func (c content) visible() deliver.Visible {
	v := deliver.Visible{Epoch: c.epoch, Foreign: c.foreign}
	if c.leaf != nil {
		v.Fingerprint, v.Chain, v.NotAfter = c.fingerprint(), c.Chain, c.leaf.NotAfter
	}
	return v
}

// writeTo puts the content, which has a leaf, into the Secret under an epoch. A bundle that is not castellan's stays,
// unless the content brings one.
func (c content) writeTo(secret *corev1.Secret, epoch activities.Epoch) {
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	if secret.Annotations == nil {
		secret.Annotations = map[string]string{}
	}
	secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey] = c.Chain, c.Key
	if _, ours := secret.Annotations[bundleAnnotation]; ours && len(c.Bundle) == 0 {
		delete(secret.Data, bundleKey)
	}
	delete(secret.Annotations, bundleAnnotation)
	if len(c.Bundle) > 0 {
		secret.Data[bundleKey] = c.Bundle
	}
	if c.Bundled && len(c.Bundle) > 0 {
		secret.Annotations[bundleAnnotation] = digest(c.Bundle)
	}
	secret.Annotations[fingerprintAnnotation] = c.fingerprint()
	secret.Annotations[chainAnnotation] = digest(c.Chain)
	secret.Annotations[rotationAnnotation] = c.Rotation
	secret.Annotations[epochAnnotation] = strconv.FormatUint(uint64(epoch), 10)
}

// contentOf is the material as content, refused when certificate and key do not belong together.
func contentOf(m deliver.Material) (content, error) {
	leaf := leafOf(m.Chain)
	if m.Epoch == 0 {
		return content{}, activities.Errorf(activities.Invalid, "check material: it has no epoch")
	}
	if leaf == nil || digest(leaf.Raw) != m.Fingerprint || !pair(m.Chain, m.Key) {
		return content{}, activities.Errorf(activities.Invalid, "check material of epoch %d: certificate, fingerprint and key do not belong together", m.Epoch)
	}
	return content{
		Chain: m.Chain, Key: m.Key, Bundle: m.Bundle, Bundled: len(m.Bundle) > 0, Rotation: string(m.Rotation),
		exists: true, leaf: leaf, epoch: m.Epoch, recorded: m.Fingerprint,
	}, nil
}

// leafOf returns the first certificate of a PEM chain, nil if there is none.
func leafOf(chain []byte) *x509.Certificate {
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		return leaf
	}
	return nil
}

// pair reports whether the key is the leaf's.
func pair(chain, key []byte) bool {
	_, err := tls.X509KeyPair(chain, key)
	return err == nil
}

func digest(public []byte) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:])
}
