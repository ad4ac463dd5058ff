package stepca_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/issue/stepca"
)

type tokenClaims struct {
	Issuer       string   `json:"iss"`
	Subject      string   `json:"sub"`
	Audience     string   `json:"aud"`
	ID           string   `json:"jti"`
	NotBefore    int64    `json:"nbf"`
	Expires      int64    `json:"exp"`
	Root         string   `json:"sha"`
	Names        []string `json:"sans"`
	Confirmation struct {
		Fingerprint string `json:"x5rt#S256"`
	} `json:"cnf"`
}

func claimsOf(t *testing.T, request seen) tokenClaims {
	t.Helper()
	parts := strings.Split(request.body["ott"].(string), ".")
	if len(parts) != 3 {
		t.Fatalf("the token has %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims tokenClaims
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestEveryAttemptCarriesATokenOfItsOwn(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	csr := newCSR(t, generate(t), "b.example", "a.example")
	fake.on("/1.0/sign", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	for range 2 {
		if _, err := issuer.Issue(t.Context(), issue.Request{CSR: csr, Lifetime: time.Hour}); err == nil {
			t.Fatal("it succeeded")
		}
	}
	requests := fake.requests("/1.0/sign")
	if len(requests) != 2 {
		t.Fatalf("%d requests reached the CA, want 2", len(requests))
	}
	first, second := claimsOf(t, requests[0]), claimsOf(t, requests[1])
	if first.ID == second.ID || first.ID == "" {
		t.Errorf("token ids %q and %q", first.ID, second.ID)
	}
	root, sum := sha256.Sum256(fake.Certificate().Raw), sha256.Sum256(csr.Raw)
	if first.Root != hex.EncodeToString(root[:]) {
		t.Errorf("sha is %q, not the root's", first.Root)
	}
	if first.Confirmation.Fingerprint != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Error("the token is not bound to the request")
	}
	if first.Issuer != fakeProvisioner || first.Subject != "b.example" || first.Audience != fake.URL+"/1.0/sign" {
		t.Errorf("got issuer %q, subject %q, audience %q", first.Issuer, first.Subject, first.Audience)
	}
	if got := strings.Join(first.Names, " "); got != "a.example b.example" {
		t.Errorf("got names %q", got)
	}
	if life := time.Duration(first.Expires-first.NotBefore) * time.Second; life > 5*time.Minute {
		t.Errorf("the token lives for %s", life)
	}
	if got := requests[0].body["notAfter"]; got != "1h0m0s" {
		t.Errorf("asked for notAfter %v, want it relative to the CA's clock", got)
	}
	if got := len(fake.requests("/1.0/provisioners")); got != 1 {
		t.Errorf("the key was fetched %d times", got)
	}
}

func TestARefusedTokenIsTriedOnceAfresh(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	csr := newCSR(t, generate(t), "afresh.example")
	fake.on("/1.0/sign", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	_, err := issuer.Issue(t.Context(), issue.Request{CSR: csr})
	if err == nil || activities.KindOf(err) != activities.Denied {
		t.Errorf("got %v, want denied", err)
	}
	if got := len(fake.requests("/1.0/sign")); got != 2 {
		t.Errorf("%d tokens were tried, want 2", got)
	}
	if got := len(fake.requests("/1.0/provisioners")); got != 2 {
		t.Errorf("the key was read %d times, want 2", got)
	}
}

// The CA judges tokens by its own clock, and certificates are dated by it.
func TestOurClockMayBeWrong(t *testing.T) {
	authority := startCA(t, t.TempDir())
	for name, wrong := range map[string]time.Duration{
		"an hour behind": -time.Hour, "half a minute behind": -30 * time.Second, "an hour ahead": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			issuer, err := stepca.New(configure(authority, authority.URL()), func() time.Time { return time.Now().Add(wrong) })
			if err != nil {
				t.Fatal(err)
			}
			key := generate(t)
			csr := newCSR(t, key, "clock.example")
			got, err := issuer.Issue(t.Context(), issue.Request{CSR: csr, Lifetime: 2 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.Leaf().NotAfter); left > 2*time.Minute+2*time.Second {
				t.Errorf("asked for two minutes, the leaf lives for %s", left)
			}
			current := tls.Certificate{Certificate: [][]byte{got.Leaf().Raw, got.Chain[1].Raw}, PrivateKey: key}
			if _, err := issuer.Rekey(t.Context(), current, issue.Request{CSR: newCSR(t, generate(t), "clock.example")}); err != nil {
				t.Errorf("rekey: %v", err)
			}
		})
	}
}

func TestACARestartGoesUnnoticed(t *testing.T) {
	dir := t.TempDir()
	authority := startCA(t, dir)
	// Right after its start step-ca refuses tokens from before it, so a clock that lags is the worst case.
	issuer, err := stepca.New(configure(authority, authority.URL()), func() time.Time { return time.Now().Add(-20 * time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	csr := newCSR(t, generate(t), "restart.example")
	for range 3 {
		if _, err := issuer.Issue(t.Context(), issue.Request{CSR: csr}); err != nil {
			t.Fatal(err)
		}
		address := strings.TrimPrefix(authority.URL(), "https://")
		stopCA(t, authority)
		authority = startCAAt(t, dir, address)
	}
}
