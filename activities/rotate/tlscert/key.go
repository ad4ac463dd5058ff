package tlscert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"net"
	"net/url"

	"castellan.dev/activities"
)

// Algorithm names a key's algorithm and size as the configuration spells it.
type Algorithm string

// The algorithms that a certificate's key may have.
const (
	ECDSAP256 Algorithm = "ecdsa-p256"
	ECDSAP384 Algorithm = "ecdsa-p384"
	Ed25519   Algorithm = "ed25519"
	RSA2048   Algorithm = "rsa-2048"
	RSA3072   Algorithm = "rsa-3072"
	RSA4096   Algorithm = "rsa-4096"
)

// generate makes a key of the algorithm.
func generate(algorithm Algorithm) (crypto.Signer, error) {
	switch algorithm {
	case ECDSAP256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, activities.Errorf(activities.Invalid, "key algorithm %q is not one of ecdsa-p256, ecdsa-p384, ed25519, rsa-2048, rsa-3072, rsa-4096", algorithm)
}

// AlgorithmOf names the algorithm of a public key; empty for one that castellan does not make.
func AlgorithmOf(public crypto.PublicKey) Algorithm {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return ECDSAP256
		case elliptic.P384():
			return ECDSAP384
		}
	case ed25519.PublicKey:
		return Ed25519
	case *rsa.PublicKey:
		switch key.N.BitLen() {
		case 2048:
			return RSA2048
		case 3072:
			return RSA3072
		case 4096:
			return RSA4096
		}
	}
	return ""
}

// encodeKey returns the key as PEM, PKCS #8.
func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// decodeKey reads what encodeKey wrote.
func decodeKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, activities.Errorf(activities.Invalid, "decode key: no PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "decode key: not a PKCS #8 key")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, activities.Errorf(activities.Invalid, "decode key: %T cannot sign", key)
	}
	return signer, nil
}

// keyID is the SHA-256 of the public key's SubjectPublicKeyInfo, hex.
func keyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Fingerprint is the SHA-256 of the certificate, hex.
func Fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// request makes the certificate signing request for the configured names.
func (c Certificate) request(key crypto.Signer) (*x509.CertificateRequest, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.CommonName}, DNSNames: c.DNSNames}
	if template.Subject.CommonName == "" && len(c.DNSNames) > 0 {
		template.Subject.CommonName = c.DNSNames[0]
	}
	for _, text := range c.IPAddresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(text))
	}
	for _, text := range c.URIs {
		uri, err := url.Parse(text)
		if err != nil {
			return nil, activities.Errorf(activities.Invalid, "certificate %q: URI name %q: %w", c.Name, text, err)
		}
		template.URIs = append(template.URIs, uri)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "make signing request for %q: %w", c.Name, err)
	}
	return x509.ParseCertificateRequest(der)
}
