package stepca_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/issue/stepca"
)

func TestConfigReportsEveryProblem(t *testing.T) {
	good := stepca.Config{URL: "https://ca.example:9000", Root: "root.crt", Provisioner: "p", PasswordFile: "password"}
	for name, test := range map[string]struct {
		change func(*stepca.Config)
		want   []string
	}{
		"nothing wrong":   {func(*stepca.Config) {}, nil},
		"everything gone": {func(c *stepca.Config) { *c = stepca.Config{} }, []string{"url", "root", "provisioner", "passwordFile"}},
		"plain HTTP":      {func(c *stepca.Config) { c.URL = "http://ca.example" }, []string{"url"}},
		"no address":      {func(c *stepca.Config) { c.URL = "https://" }, []string{"url"}},
		"a bad port":      {func(c *stepca.Config) { c.URL = "https://ca.example:port" }, []string{"url"}},
		"a credential":    {func(c *stepca.Config) { c.URL = "https://me:hunter2@ca.example" }, []string{"url"}},
		"a query":         {func(c *stepca.Config) { c.URL = "https://ca.example?a=b" }, []string{"url"}},
		"a short print":   {func(c *stepca.Config) { c.RootFingerprint = "abcd" }, []string{"rootFingerprint"}},
		"a print":         {func(c *stepca.Config) { c.RootFingerprint = strings.Repeat("AB:", 31) + "AB" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			config := good
			test.change(&config)
			var got []string
			config.Check(func(field, value, want string) {
				got = append(got, field)
				if strings.Contains(value+want, "hunter2") {
					t.Error("the report shows a password")
				}
				if want == "" {
					t.Errorf("%s: no expectation", field)
				}
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewFailsEarly(t *testing.T) {
	fake := newFakeCA(t)
	for name, change := range map[string]func(*stepca.Config){
		"no root file":          func(c *stepca.Config) { c.Root = "/nonexistent" },
		"a root without one":    func(c *stepca.Config) { c.Root = file(t, "root.crt", "hello") },
		"another root":          func(c *stepca.Config) { c.RootFingerprint = strings.Repeat("ab", 32) },
		"no password file":      func(c *stepca.Config) { c.PasswordFile = "/nonexistent" },
		"an empty password":     func(c *stepca.Config) { c.PasswordFile = file(t, "password", "\n") },
		"a configuration fault": func(c *stepca.Config) { c.Provisioner = "" },
	} {
		t.Run(name, func(t *testing.T) {
			config := fake.config(t)
			change(&config)
			_, err := stepca.New(config, time.Now)
			if err == nil || activities.KindOf(err) != activities.Invalid {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
}

func TestTheRootIsPinned(t *testing.T) {
	authority, other := startCA(t, t.TempDir()), startCA(t, t.TempDir())
	csr := newCSR(t, generate(t), "pinned.example")

	config := configure(authority, authority.URL())
	sum := sha256.Sum256(authority.Root().Raw)
	config.RootFingerprint = strings.ToUpper(hex.EncodeToString(sum[:]))
	if _, err := newIssuer(t, config).Issue(t.Context(), issue.Request{CSR: csr}); err != nil {
		t.Errorf("the right root: %v", err)
	}

	config = configure(authority, other.URL())
	_, err := newIssuer(t, config).Issue(t.Context(), issue.Request{CSR: csr})
	if err == nil || activities.KindOf(err) != activities.Invalid {
		t.Errorf("another CA at the address: got %v, want invalid", err)
	}

	both := contentOf(t, other.RootFile()) + "\n" + contentOf(t, authority.RootFile()) + "\n"
	config = configure(authority, authority.URL())
	config.Root, config.RootFingerprint = file(t, "roots.crt", both), hex.EncodeToString(sum[:])
	roots, err := newIssuer(t, config).Roots(t.Context())
	if err != nil || len(roots) != 1 || !roots[0].Equal(authority.Root()) {
		t.Errorf("a file with more than the pinned root: got %d roots, %v", len(roots), err)
	}
}

func TestTheKeyMayComeFromAFile(t *testing.T) {
	fake := newFakeCA(t)
	fake.on("/1.0/provisioners", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"provisioners":[]}`)) })
	authority := newSigner(t, time.Now().Add(10*time.Hour))
	key := generate(t)
	fake.on("/1.0/sign", answer(authority.leaf(t, key.Public(), time.Now().Add(time.Hour), "file.example"), authority.intermediate))
	config := fake.config(t)
	config.Root = withRoot(t, config.Root, authority.root)
	request := issue.Request{CSR: newCSR(t, key, "file.example")}

	_, err := newIssuer(t, config).Issue(t.Context(), request)
	if err == nil || activities.KindOf(err) != activities.NotFound {
		t.Errorf("a CA that hands out no key: got %v, want not found", err)
	}
	config.KeyFile = file(t, "key.jwe", fake.jwe+"\n")
	if _, err := newIssuer(t, config).Issue(t.Context(), request); err != nil {
		t.Error(err)
	}
}

// withRoot adds a root to a root file, for a fake that signs with another one than it serves with.
func withRoot(t *testing.T, path string, root *x509.Certificate) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "roots.crt", string(content)+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})))
}

func TestACertificateThatDoesNotAnswerTheRequestFails(t *testing.T) {
	fake := newFakeCA(t)
	good, foreign := newSigner(t, time.Now().Add(10*time.Hour)), newSigner(t, time.Now().Add(10*time.Hour))
	short := newSigner(t, time.Now().Add(time.Minute))
	config := fake.config(t)
	config.Root = withRoot(t, withRoot(t, config.Root, good.root), short.root)
	issuer := newIssuer(t, config)
	key, hour := generate(t), time.Now().Add(time.Hour)
	for name, test := range map[string]struct {
		chain []*x509.Certificate
		want  string // empty: it is accepted
	}{
		"the right one":                  {[]*x509.Certificate{good.leaf(t, key.Public(), hour, "a.example"), good.intermediate}, ""},
		"with the root in the chain":     {[]*x509.Certificate{good.leaf(t, key.Public(), hour, "a.example"), good.intermediate, good.root}, ""},
		"over another key":               {[]*x509.Certificate{good.leaf(t, generate(t).Public(), hour, "a.example"), good.intermediate}, "another key"},
		"for another name":               {[]*x509.Certificate{good.leaf(t, key.Public(), hour, "b.example"), good.intermediate}, "lacks the name a.example"},
		"from another root":              {[]*x509.Certificate{foreign.leaf(t, key.Public(), hour, "a.example"), foreign.intermediate}, "unknown authority"},
		"without its intermediate":       {[]*x509.Certificate{good.leaf(t, key.Public(), hour, "a.example")}, "unknown authority"},
		"that outlives its intermediate": {[]*x509.Certificate{short.leaf(t, key.Public(), hour, "a.example"), short.intermediate}, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			fake.on("/1.0/sign", answer(test.chain...))
			got, err := issuer.Issue(t.Context(), issue.Request{CSR: newCSR(t, key, "a.example")})
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if len(got.Chain) != 2 {
					t.Errorf("got a chain of %d, want leaf and intermediate", len(got.Chain))
				}
				return
			}
			if err == nil || activities.KindOf(err) != activities.Failed || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want failed: %s", err, test.want)
			}
		})
	}
}

func TestRekeyRefusesWhatStepCAWouldNotDo(t *testing.T) {
	authority, other := startCA(t, t.TempDir()), startCA(t, t.TempDir())
	issuer := newIssuer(t, configure(authority, authority.URL()))
	name := "rekey.example"
	current := obtain(t, issuer, name, 10*time.Minute)
	foreign := obtain(t, newIssuer(t, configure(other, other.URL())), name, 10*time.Minute)
	brief := obtain(t, issuer, name, 10*time.Second)
	fresh := func(names ...string) *x509.CertificateRequest { return newCSR(t, generate(t), names...) }
	for sentence, test := range map[string]struct {
		current tls.Certificate
		request issue.Request
		want    activities.Kind // empty: it succeeds
	}{
		"the same names":              {current, issue.Request{CSR: fresh(name)}, ""},
		"the same lifetime":           {current, issue.Request{CSR: fresh(name), Lifetime: 10 * time.Minute}, ""},
		"another lifetime":            {current, issue.Request{CSR: fresh(name), Lifetime: time.Hour}, activities.Invalid},
		"another name":                {current, issue.Request{CSR: fresh("other.example")}, activities.Invalid},
		"one more name":               {current, issue.Request{CSR: fresh(name, "other.example")}, activities.Invalid},
		"no current certificate":      {tls.Certificate{}, issue.Request{CSR: fresh(name)}, activities.Invalid},
		"another CA's certificate":    {foreign, issue.Request{CSR: fresh(name)}, activities.Denied},
		"a lifetime shorter than now": {brief, issue.Request{CSR: fresh(name), Lifetime: time.Hour}, activities.Invalid},
	} {
		t.Run(sentence, func(t *testing.T) {
			got, err := issuer.Rekey(t.Context(), test.current, test.request)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				kept := test.current.Leaf.NotAfter.Sub(test.current.Leaf.NotBefore)
				if life := got.Leaf().NotAfter.Sub(got.Leaf().NotBefore); (life - kept).Abs() > 2*time.Second {
					t.Errorf("the lifetime went from %s to %s", kept, life)
				}
				return
			}
			if err == nil || activities.KindOf(err) != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}

	t.Run("an expired certificate", func(t *testing.T) {
		late, err := stepca.New(configure(authority, authority.URL()), func() time.Time { return time.Now().Add(time.Hour) })
		if err != nil {
			t.Fatal(err)
		}
		_, err = late.Rekey(t.Context(), current, issue.Request{CSR: fresh(name)})
		if err == nil || activities.KindOf(err) != activities.Denied {
			t.Errorf("got %v, want denied", err)
		}
	})
}

func obtain(t *testing.T, issuer *stepca.Issuer, name string, lifetime time.Duration) tls.Certificate {
	t.Helper()
	key := generate(t)
	got, err := issuer.Issue(t.Context(), issue.Request{CSR: newCSR(t, key, name), Lifetime: lifetime})
	if err != nil {
		t.Fatal(err)
	}
	current := tls.Certificate{PrivateKey: key, Leaf: got.Leaf()}
	for _, certificate := range got.Chain {
		current.Certificate = append(current.Certificate, certificate.Raw)
	}
	return current
}

func TestRevokeRefusesNonsense(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	certificate := newSigner(t, time.Now().Add(time.Hour)).root
	for name, revocation := range map[string]issue.Revocation{
		"no certificate":         {},
		"a reason out of bounds": {Certificate: certificate, Reason: 11},
		"a reason left unused":   {Certificate: certificate, Reason: 7},
		"a negative reason":      {Certificate: certificate, Reason: -1},
	} {
		t.Run(name, func(t *testing.T) {
			err := issuer.Revoke(t.Context(), revocation)
			if err == nil || activities.KindOf(err) != activities.Invalid {
				t.Errorf("got %v, want invalid", err)
			}
		})
	}
	if got := len(fake.requests("/1.0/revoke")); got > 0 {
		t.Errorf("%d requests reached the CA", got)
	}
}

func TestOnlyARepeatedRevocationIsForgiven(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	certificate := newSigner(t, time.Now().Add(time.Hour)).root
	for name, test := range map[string]struct {
		status int
		body   string
		ok     bool
	}{
		"step-ca's own words":  {400, `{"message":"The request could not be completed: certificate with serial number '1' is already revoked."}`, true},
		"another bad request":  {400, `{"message":"The request could not be completed: missing serial."}`, false},
		"a refusal that lies":  {403, `{"message":"it is already revoked"}`, false},
		"a failure that jokes": {500, `{"message":"it is already revoked"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			fake.on("/1.0/revoke", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			})
			err := issuer.Revoke(t.Context(), issue.Revocation{Certificate: certificate})
			if (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestACAWithoutRevocationListIsNotFound(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	if _, err := issuer.RevocationList(t.Context()); err == nil || activities.KindOf(err) != activities.NotFound {
		t.Errorf("got %v, want not found", err)
	}
	fake.on("/1.0/crl", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	_, err := issuer.RevocationList(t.Context())
	var own *activities.Error
	if !errors.As(err, &own) || own.Kind != activities.Invalid {
		t.Errorf("a list that is none: got %v, want invalid", err)
	}
}
