package tlscert

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

// material is the store document of one rotation's key pair. All of it but Chain is secret.
type material struct {
	Rotation activities.RotationID `json:"rotation"`
	Key      []byte                `json:"key"`             // PEM, PKCS #8
	Chain    []byte                `json:"chain,omitempty"` // PEM, leaf first; empty until the issuer signed
	Asked    int                   `json:"asked,omitempty"` // how often the issuer was asked to sign
}

// KeyName returns the store name of the key pair minted under an epoch.
func KeyName(target string, epoch activities.Epoch) string {
	return fmt.Sprintf("keys/%s/%d", target, epoch)
}

func (k *Kind) load(ctx context.Context, target string, epoch activities.Epoch) (material, store.Version, error) {
	document, err := k.store.Read(ctx, KeyName(target, epoch))
	if err != nil {
		return material{}, 0, err
	}
	var found material
	if err := json.Unmarshal(document.Value, &found); err != nil {
		return material{}, 0, activities.Errorf(activities.Invalid, "read key pair of %q at epoch %d: not a key document", target, epoch)
	}
	return found, document.Version, nil
}

func (k *Kind) save(ctx context.Context, target string, epoch activities.Epoch, m material, expected store.Version) (store.Version, error) {
	value, err := json.Marshal(m)
	if err != nil {
		return 0, activities.Errorf(activities.Invalid, "encode key pair of %q: %w", target, err)
	}
	return k.store.Write(ctx, KeyName(target, epoch), value, expected)
}

// erase destroys every version of an epoch's key pair. Idempotent.
func (k *Kind) erase(ctx context.Context, target string, epoch activities.Epoch) error {
	versions, err := k.store.Versions(ctx, KeyName(target, epoch))
	if err != nil {
		return err
	}
	for _, version := range versions {
		if version.Erased {
			continue
		}
		if err := k.store.Erase(ctx, KeyName(target, epoch), version.Version); err != nil {
			return err
		}
	}
	return nil
}

// pair loads an epoch's key pair for a handshake. Zero is a credential that castellan did not mint.
func (k *Kind) pair(ctx context.Context, target string, epoch activities.Epoch) (tls.Certificate, error) {
	if epoch == 0 {
		return tls.Certificate{}, activities.Errorf(activities.NotFound, "the key of %q was not minted by castellan", target)
	}
	found, _, err := k.load(ctx, target, epoch)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(found.Chain, found.Key)
	if err != nil {
		return tls.Certificate{}, activities.Errorf(activities.Failed, "key pair of %q at epoch %d: key and certificate do not match", target, epoch)
	}
	return pair, nil
}

func (m material) describe() (activities.Candidate, error) {
	if len(m.Chain) > 0 {
		leaf, err := leafOf(m.Chain)
		if err != nil {
			return activities.Candidate{}, err
		}
		candidate := describe(leaf)
		candidate.Lost = max(0, m.Asked-1)
		return candidate, nil
	}
	key, err := decodeKey(m.Key)
	if err != nil {
		return activities.Candidate{}, err
	}
	id, err := keyID(key.Public())
	if err != nil {
		return activities.Candidate{}, activities.Errorf(activities.Invalid, "identify key: %w", err)
	}
	return activities.Candidate{KeyID: id, Key: string(AlgorithmOf(key.Public()))}, nil
}

// leafOf parses the first certificate of a PEM chain.
func leafOf(chain []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(chain)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, activities.Errorf(activities.NotFound, "no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "parse certificate: %w", err)
	}
	return leaf, nil
}

func encodeChain(chain []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, certificate := range chain {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}) // a bytes.Buffer never fails
	}
	return out.Bytes()
}
