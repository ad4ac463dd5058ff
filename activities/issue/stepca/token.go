package stepca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"

	"castellan.dev/activities"
)

const (
	tokenLife = 2 * time.Minute
	maxPages  = 100
)

// provisionerKey signs one-time tokens.
type provisionerKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   any
}

// claims are what a one-time token says; https://smallstep.com/docs/step-ca/provisioners/#jwk.
type claims struct {
	Issuer       string        `json:"iss"`
	Subject      string        `json:"sub"`
	Audience     string        `json:"aud"`
	ID           string        `json:"jti"`
	IssuedAt     int64         `json:"iat"`
	NotBefore    int64         `json:"nbf"`
	Expires      int64         `json:"exp"`
	Root         string        `json:"sha"`
	Names        []string      `json:"sans,omitempty"`
	Confirmation *confirmation `json:"cnf,omitempty"`
}

// confirmation binds a token to one CSR: who steals the token gets no certificate over another key.
type confirmation struct {
	Fingerprint string `json:"x5rt#S256"`
}

// withToken makes the call with a fresh token in the field "ott". A token that is refused is replaced
// once, by one of a key and a clock that were read again: the CA may have restarted, changed its
// provisioner's key, or live in another time. A refused token had no effect.
func (s *Issuer) withToken(ctx context.Context, want claims, c call, body any) (reply, error) {
	for attempt := 1; ; attempt++ {
		key, err := s.provisioner(ctx, attempt > 1)
		if err != nil {
			return reply{}, err
		}
		token, err := s.token(key, want, c.path)
		if err != nil {
			return reply{}, err
		}
		fields, err := withField(body, "ott", token)
		if err != nil {
			return reply{}, activities.Errorf(activities.Invalid, "%s: encode request: %w", c.act, err)
		}
		c.secret = token
		got, err := s.post(ctx, c, fields)
		if attempt == 1 && unauthorized(err) {
			continue
		}
		return got, err
	}
}

func withField(body any, name string, value any) (map[string]any, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{}
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	fields[name] = value
	return fields, nil
}

// token makes a one-time token for the endpoint at path.
func (s *Issuer) token(key *provisionerKey, want claims, path string) (string, error) {
	anchors, err := s.anchors()
	if err != nil {
		return "", err
	}
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails: crypto/rand aborts the process instead
	now := s.time()
	want.Issuer = s.config.Provisioner
	want.Audience = s.base.JoinPath(path).String()
	want.ID = hex.EncodeToString(id)
	want.IssuedAt, want.NotBefore, want.Expires = now.Unix(), now.Unix(), now.Add(tokenLife).Unix()
	want.Root = fingerprint(anchors[0])
	payload, err := json.Marshal(want)
	if err != nil {
		return "", activities.Errorf(activities.Invalid, "make one-time token: %w", err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: key.algorithm, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", activities.Errorf(activities.Invalid, "make one-time token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", activities.Errorf(activities.Invalid, "make one-time token: %w", err)
	}
	return signed.CompactSerialize()
}

// provisioner returns the decrypted key, from memory unless it must be fresh.
func (s *Issuer) provisioner(ctx context.Context, fresh bool) (*provisionerKey, error) {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	if key != nil && !fresh {
		return key, nil
	}
	password, err := s.password()
	if err != nil {
		return nil, err
	}
	encrypted, err := s.encryptedKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, candidate := range encrypted {
		if key, err = decrypt(candidate, password); err == nil {
			s.mu.Lock()
			s.key = key
			s.mu.Unlock()
			return key, nil
		}
	}
	return nil, activities.Errorf(activities.Denied, "open the key of provisioner %q: the password in %q does not fit",
		s.config.Provisioner, s.config.PasswordFile)
}

func (s *Issuer) password() ([]byte, error) {
	content, err := os.ReadFile(s.config.PasswordFile)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "read step-ca provisioner password: %w", err)
	}
	password := bytes.TrimRight(content, "\r\n")
	if len(password) == 0 {
		return nil, activities.Errorf(activities.Invalid, "read step-ca provisioner password: %q is empty", s.config.PasswordFile)
	}
	return password, nil
}

// encryptedKeys returns the encrypted keys that go by the provisioner's name; step-ca allows several.
func (s *Issuer) encryptedKeys(ctx context.Context) ([]string, error) {
	if s.config.KeyFile != "" {
		content, err := os.ReadFile(s.config.KeyFile)
		if err != nil {
			return nil, activities.Errorf(activities.Invalid, "read step-ca provisioner key: %w", err)
		}
		return []string{string(bytes.TrimSpace(content))}, nil
	}
	var found []string
	cursor := ""
	for range maxPages {
		page, err := s.provisioners(ctx, cursor)
		if err != nil {
			return nil, err
		}
		for _, listed := range page.Provisioners {
			if listed.Type == "JWK" && listed.Name == s.config.Provisioner && listed.EncryptedKey != "" {
				found = append(found, listed.EncryptedKey)
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(found) == 0 {
		return nil, activities.Errorf(activities.NotFound,
			"find provisioner %q at %s: the CA lists no JWK provisioner of this name with an encrypted key (set keyFile if the CA keeps it back)",
			s.config.Provisioner, s.base.Host)
	}
	return found, nil
}

type provisionerPage struct {
	Provisioners []struct {
		Type         string `json:"type"`
		Name         string `json:"name"`
		EncryptedKey string `json:"encryptedKey"`
	} `json:"provisioners"`
	NextCursor string `json:"nextCursor"`
}

func (s *Issuer) provisioners(ctx context.Context, cursor string) (provisionerPage, error) {
	c := call{act: "list provisioners", method: http.MethodGet, path: "/1.0/provisioners", query: url.Values{"limit": {"100"}}}
	if cursor != "" {
		c.query.Set("cursor", cursor)
	}
	got, err := s.do(ctx, c, nil)
	if err != nil {
		return provisionerPage{}, err
	}
	var page provisionerPage
	if err := json.Unmarshal(got.body, &page); err != nil {
		return provisionerPage{}, s.unreadable(c, "%v", err)
	}
	return page, nil
}

// decrypt opens a provisioner's key: a JWK inside a password-based JWE.
func decrypt(encrypted string, password []byte) (*provisionerKey, error) {
	sealed, err := jose.ParseEncrypted(encrypted,
		[]jose.KeyAlgorithm{jose.PBES2_HS256_A128KW, jose.PBES2_HS384_A192KW, jose.PBES2_HS512_A256KW},
		[]jose.ContentEncryption{jose.A128CBC_HS256, jose.A192CBC_HS384, jose.A256CBC_HS512, jose.A128GCM, jose.A192GCM, jose.A256GCM})
	if err != nil {
		return nil, err
	}
	opened, err := sealed.Decrypt(password)
	if err != nil {
		return nil, err
	}
	var key jose.JSONWebKey
	if err := key.UnmarshalJSON(opened); err != nil {
		return nil, errors.New("decode key: not a JSON web key")
	}
	algorithm, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	return &provisionerKey{id: key.KeyID, algorithm: algorithm, private: key.Key}, nil
}

func algorithmOf(key jose.JSONWebKey) (jose.SignatureAlgorithm, error) {
	if key.Algorithm != "" {
		return jose.SignatureAlgorithm(key.Algorithm), nil
	}
	switch private := key.Key.(type) {
	case *ecdsa.PrivateKey:
		switch private.Curve.Params().BitSize {
		case 256:
			return jose.ES256, nil
		case 384:
			return jose.ES384, nil
		case 521:
			return jose.ES512, nil
		}
	case ed25519.PrivateKey:
		return jose.EdDSA, nil
	case *rsa.PrivateKey:
		return jose.RS256, nil
	}
	return "", errors.New("choose signature algorithm: unknown kind of key")
}

// digest is how a token names the CSR that it is for.
func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
