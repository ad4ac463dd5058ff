package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/issue/stepca"
	"castellan.dev/internal/ca"
	"castellan.dev/testsuite/fault"
)

// spoiled is a good issuer with one habit that breaks the contract.
type spoiled struct {
	*stepca.Issuer
	issue  func(context.Context, issue.Request) (issue.Certificate, error)
	revoke func(context.Context, issue.Revocation) error
	rekey  func(context.Context, tls.Certificate, issue.Request) (issue.Certificate, error)
}

func (s spoiled) Issue(ctx context.Context, request issue.Request) (issue.Certificate, error) {
	if s.issue != nil {
		return s.issue(ctx, request)
	}
	return s.Issuer.Issue(ctx, request)
}

func (s spoiled) Revoke(ctx context.Context, revocation issue.Revocation) error {
	if s.revoke != nil {
		return s.revoke(ctx, revocation)
	}
	return s.Issuer.Revoke(ctx, revocation)
}

func (s spoiled) Rekey(ctx context.Context, current tls.Certificate, request issue.Request) (issue.Certificate, error) {
	if s.rekey != nil {
		return s.rekey(ctx, current, request)
	}
	return s.Issuer.Rekey(ctx, current, request)
}

// turned changes the kind of an error.
func turned(err error, from, to activities.Kind) error {
	if err != nil && activities.KindOf(err) == from {
		return activities.Errorf(to, "%w", err)
	}
	return err
}

// reworded changes the kind of every error that an issuer returns.
func reworded(good *stepca.Issuer, from, to activities.Kind) spoiled {
	return spoiled{Issuer: good,
		issue: func(ctx context.Context, request issue.Request) (issue.Certificate, error) {
			got, err := good.Issue(ctx, request)
			return got, turned(err, from, to)
		},
		revoke: func(ctx context.Context, revocation issue.Revocation) error {
			return turned(good.Revoke(ctx, revocation), from, to)
		},
		rekey: func(ctx context.Context, current tls.Certificate, request issue.Request) (issue.Certificate, error) {
			got, err := good.Rekey(ctx, current, request)
			return got, turned(err, from, to)
		},
	}
}

// TestTheIssuerSuiteCatches holds the suite against issuers that break one promise each.
func TestTheIssuerSuiteCatches(t *testing.T) {
	authority, err := ca.Start(t.Context(), ca.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = authority.Stop(context.Background()) })

	for habit, test := range map[string]struct {
		promises []string
		spoil    func(f *IssuerFixture, good *stepca.Issuer)
	}{
		"hands out the same certificate again": {
			[]string{"the same request twice gives two certificates"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				var mu sync.Mutex
				known := map[string]issue.Certificate{}
				f.Issuer = spoiled{Issuer: good, issue: func(ctx context.Context, request issue.Request) (issue.Certificate, error) {
					mu.Lock()
					defer mu.Unlock()
					if got, ok := known[string(request.CSR.Raw)]; ok {
						return got, nil
					}
					got, err := good.Issue(ctx, request)
					known[string(request.CSR.Raw)] = got
					return got, err
				}}
			},
		},
		"signs another key": {
			[]string{"a leaf is over the request's key and has its names", "every key algorithm of the policy is signed", "the lifetime is honoured"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, issue: func(ctx context.Context, request issue.Request) (issue.Certificate, error) {
					other, _, err := newCSR(p256, oneName())
					if err != nil {
						return issue.Certificate{}, err
					}
					return good.Issue(ctx, issue.Request{CSR: other, Lifetime: request.Lifetime})
				}}
			},
		},
		"forgets the lifetime": {
			[]string{"the lifetime is honoured"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, issue: func(ctx context.Context, request issue.Request) (issue.Certificate, error) {
					return good.Issue(ctx, issue.Request{CSR: request.CSR})
				}}
			},
		},
		"invents a name": {
			[]string{"a request without names is invalid"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, issue: func(ctx context.Context, request issue.Request) (issue.Certificate, error) {
					if len(request.CSR.DNSNames) == 0 {
						request.CSR, _, _ = newCSR(p256, oneName())
					}
					return good.Issue(ctx, request)
				}}
			},
		},
		"takes a lost reply for no effect": {
			[]string{
				"a lost reply is uncertain and a second attempt succeeds",
				"a lost reply to a revocation is uncertain and a second attempt succeeds",
				"a lost reply to a rekey is uncertain and a second attempt succeeds",
			},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = reworded(good, activities.Uncertain, activities.Transient)
			},
		},
		"takes no connection for a lost reply": {
			[]string{"a CA that is down is transient", "a CA that answers nothing is transient"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = reworded(good, activities.Transient, activities.Uncertain)
			},
		},
		"gives up on a CA that is down": {
			[]string{"a CA that is down is transient", "a CA that answers nothing is transient"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = reworded(good, activities.Transient, activities.Denied)
			},
		},
		"accepts any credential": {
			[]string{"a refused credential is denied or invalid"},
			func(f *IssuerFixture, good *stepca.Issuer) { f.Foreign = good },
		},
		"shows its password": {
			[]string{"a refused credential is denied or invalid"},
			func(f *IssuerFixture, _ *stepca.Issuer) {
				foreign := f.Foreign.(*stepca.Issuer)
				f.Foreign = spoiled{Issuer: foreign, issue: func(ctx context.Context, request issue.Request) (issue.Certificate, error) {
					_, err := foreign.Issue(ctx, request)
					return issue.Certificate{}, activities.Errorf(activities.Denied, "%w: tried %s", err, f.Secrets[0])
				}}
			},
		},
		"shows a token": {
			[]string{"a refused credential is denied or invalid"},
			func(f *IssuerFixture, _ *stepca.Issuer) {
				foreign := f.Foreign.(*stepca.Issuer)
				f.Foreign = spoiled{Issuer: foreign, revoke: func(ctx context.Context, revocation issue.Revocation) error {
					err := foreign.Revoke(ctx, revocation)
					return activities.Errorf(activities.Denied, "%w: tried eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.AAAA", err)
				}}
			},
		},
		"stumbles over a repeated revocation": {
			[]string{"revoking twice succeeds", "a lost reply to a revocation is uncertain and a second attempt succeeds"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				seen := map[string]bool{}
				f.Issuer = spoiled{Issuer: good, revoke: func(ctx context.Context, revocation issue.Revocation) error {
					serial := revocation.Certificate.SerialNumber.String()
					if seen[serial] {
						return activities.Errorf(activities.Conflict, "%s is already revoked", serial)
					}
					seen[serial] = true
					return good.Revoke(ctx, revocation)
				}}
			},
		},
		"only claims to revoke": {
			[]string{"a revoked certificate is in the revocation list, its sibling is not", "rekeying a revoked certificate is denied"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, revoke: func(context.Context, issue.Revocation) error { return nil }}
			},
		},
		"forgets the reason of a revocation": {
			[]string{"a revoked certificate is in the revocation list, its sibling is not"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, revoke: func(ctx context.Context, revocation issue.Revocation) error {
					return good.Revoke(ctx, issue.Revocation{Certificate: revocation.Certificate})
				}}
			},
		},
		"keeps the key when it rekeys": {
			[]string{"a rekeyed certificate has another key and the same names", "rekeying refuses names that the current certificate lacks"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, rekey: func(_ context.Context, current tls.Certificate, _ issue.Request) (issue.Certificate, error) {
					chain, err := issuerChain(current)
					return issue.Certificate{Chain: chain}, err
				}}
			},
		},
		"rekeys whoever asks": {
			[]string{"rekeying a revoked certificate is denied"},
			func(f *IssuerFixture, good *stepca.Issuer) {
				f.Issuer = spoiled{Issuer: good, rekey: func(ctx context.Context, _ tls.Certificate, request issue.Request) (issue.Certificate, error) {
					return good.Issue(ctx, request)
				}}
			},
		},
	} {
		t.Run(habit, func(t *testing.T) {
			for _, promise := range test.promises {
				index := slices.IndexFunc(issuerChecks(), func(c issuerCheck) bool { return c.promise == promise })
				if index < 0 {
					t.Fatalf("the suite has no promise %q", promise)
				}
				f, good := stepFixture(t, authority)
				test.spoil(&f, good)
				if err := issuerChecks()[index].check(t.Context(), f); err == nil {
					t.Errorf("not caught by %q", promise)
				} else {
					t.Logf("caught: %v", err)
				}
			}
		})
	}
}

func stepFixture(t *testing.T, authority *ca.CA) (IssuerFixture, *stepca.Issuer) {
	t.Helper()
	proxy, err := fault.New(strings.TrimPrefix(authority.URL(), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	wrong := t.TempDir() + "/password"
	if err := os.WriteFile(wrong, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	password, err := os.ReadFile(authority.PasswordFile())
	if err != nil {
		t.Fatal(err)
	}
	config := stepca.Config{
		URL: "https://" + proxy.Address(), Root: authority.RootFile(),
		Provisioner: authority.Provisioner(), PasswordFile: authority.PasswordFile(),
	}
	good, err := stepca.New(config, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	config.PasswordFile = wrong
	foreign, err := stepca.New(config, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return IssuerFixture{
		Issuer: good, Foreign: foreign, Proxy: proxy, Granted: 30 * time.Minute, Secrets: []string{string(password)},
	}, good
}

func issuerChain(current tls.Certificate) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for i, raw := range current.Certificate {
		certificate, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		chain = append(chain, certificate)
	}
	return chain, nil
}
