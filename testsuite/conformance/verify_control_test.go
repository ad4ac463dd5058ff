package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/verify"
)

// glance is a verifier of consumers in memory. Its habits break one promise each.
type glance struct {
	uses    []Issued
	stopped []bool
	pool    *x509.CertPool
	memory  []verify.Sighting

	remembers, trustsAnybody, skipsStopped, quietNobody, deaf, trustsTheName, onlyFirst bool
}

func (g *glance) Verify(ctx context.Context, want verify.Expectation) ([]verify.Sighting, error) {
	if ctx.Err() != nil && !g.deaf {
		return nil, ctx.Err()
	}
	if g.remembers && g.memory != nil {
		return g.memory, nil
	}
	if len(g.uses) == 0 {
		if g.quietNobody {
			return nil, nil
		}
		return []verify.Sighting{{Standing: activities.Unverifiable, Detail: "no address"}}, nil
	}
	var sightings []verify.Sighting
	for i := range g.uses {
		sighting := g.look(i, want)
		sighting.Address, sighting.At = fmt.Sprintf("10.0.0.%d:443", i), time.Now()
		sightings = append(sightings, sighting)
	}
	g.memory = sightings
	return sightings, nil
}

func (g *glance) look(i int, want verify.Expectation) verify.Sighting {
	if g.stopped[i] && !g.skipsStopped {
		return verify.Sighting{Standing: activities.Broken, Detail: "refuses connections"}
	}
	if g.onlyFirst {
		i = 0
	}
	leaf := g.uses[i].Pair.Leaf
	seen := verify.Sighting{Standing: activities.UsesPrevious, Serves: g.uses[i].Fingerprint}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: g.pool, DNSName: "service.test"}); err != nil && !g.trustsAnybody {
		seen.Standing, seen.Detail = activities.Broken, err.Error()
	} else if seen.Serves == want.Fingerprint || g.trustsTheName && leaf.Subject.CommonName == "service.test" {
		seen.Standing = activities.UsesCandidate
	} else if seen.Serves != want.Previous {
		seen.Detail = "neither"
	}
	return seen
}

// TestTheVerifierSuiteCatches holds the suite against a verifier with one bad habit each.
func TestTheVerifierSuiteCatches(t *testing.T) {
	for habit, c := range map[string]struct {
		glance   glance
		promises []string
	}{
		"none":                              {glance{}, nil},
		"answers from memory":               {glance{remembers: true}, []string{"a look is never answered from memory"}},
		"builds no chain":                   {glance{trustsAnybody: true}, []string{"a certificate of a foreign authority is broken", "an expired certificate is broken", "a candidate that does not verify is not proven"}},
		"does not notice closed ports":      {glance{skipsStopped: true}, []string{"an address that refuses connections is not proven"}},
		"takes nobody for everybody":        {glance{quietNobody: true}, []string{"a consumer without an address is not proven"}},
		"does not hear that it was stopped": {glance{deaf: true}, []string{"a look that is cut short proves nothing"}},
		"compares names, not certificates":  {glance{trustsTheName: true}, []string{"a consumer that uses the previous is a straggler", "a certificate that is neither candidate nor previous is named"}},
		"looks at one address for all":      {glance{onlyFirst: true}, []string{"a single straggler is named by its address"}},
	} {
		t.Run(habit, func(t *testing.T) {
			run := func(promise string) []string {
				check, ok := verifierChecks[promise]
				if !ok {
					t.Fatalf("the suite has no promise %q", promise)
				}
				ca := NewAuthority(t, "control")
				g := c.glance
				g.uses, g.stopped, g.pool = make([]Issued, 2), make([]bool, 2), ca.Pool()
				watched := Watched{
					Verifier: &g, Addresses: 2, Nobody: &glance{quietNobody: g.quietNobody},
					Use:   func(issued Issued) { g.uses[0], g.uses[1] = issued, issued },
					UseAt: func(i int, issued Issued) { g.uses[i] = issued },
					Stop:  func(i int) { g.stopped[i] = true },
				}
				return complaints(t, func(tb testing.TB) { check(newVerifyCase(tb, ca, watched)) })
			}
			for _, promise := range c.promises {
				if len(run(promise)) == 0 {
					t.Errorf("not caught by %q", promise)
				}
			}
			if c.promises == nil {
				for promise := range verifierChecks {
					if said := run(promise); len(said) > 0 {
						t.Errorf("a good verifier fails %q: %v", promise, said)
					}
				}
			}
		})
	}
}

// fits reports whether a key belongs to a chain.
func fits(chain, key []byte) bool {
	_, err := tls.X509KeyPair(chain, key)
	return err == nil
}
