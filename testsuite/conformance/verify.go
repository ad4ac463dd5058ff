package conformance

import (
	"context"
	"crypto/x509"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/verify"
)

// Watched is one consumer under the suite's control, as RunVerifier needs it. It has at least two
// addresses and trusts, or is trusted by, the suite's authority alone.
type Watched struct {
	Verifier verify.Verifier
	// Use makes the whole consumer use the certificate.
	Use func(Issued)
	// UseAt makes one of its addresses use another one. Nil when all addresses use the same.
	UseAt func(address int, issued Issued)
	// Stop makes the address refuse connections.
	Stop func(address int)
	// Addresses is how many there are.
	Addresses int
	// Nobody is the verifier of a consumer without any address.
	Nobody verify.Verifier
}

// RunVerifier checks the contract of verify.Verifier. Each case gets a consumer of its own.
func RunVerifier(t *testing.T, start func(t *testing.T, ca *Authority) Watched) {
	for promise, check := range verifierChecks {
		t.Run(promise, func(t *testing.T) {
			ca := NewAuthority(t, "consumers")
			check(newVerifyCase(t, ca, start(t, ca)))
		})
	}
}

// verifierChecks are the promises of a verifier.
var verifierChecks = map[string]func(*verifyCase){
	"every address that uses the candidate is proven":               (*verifyCase).candidate,
	"a consumer that uses the previous is a straggler":              (*verifyCase).previous,
	"a single straggler is named by its address":                    (*verifyCase).straggler,
	"a look is never answered from memory":                          (*verifyCase).fresh,
	"a certificate that is neither candidate nor previous is named": (*verifyCase).neither,
	"a certificate of a foreign authority is broken":                (*verifyCase).foreign,
	"an expired certificate is broken":                              (*verifyCase).expired,
	"a candidate that does not verify is not proven":                (*verifyCase).badCandidate,
	"an address that refuses connections is not proven":             (*verifyCase).stopped,
	"a consumer without an address is not proven":                   (*verifyCase).nobody,
	"a look that is cut short proves nothing":                       (*verifyCase).cancelled,
}

func newVerifyCase(t testing.TB, ca *Authority, watched Watched) *verifyCase {
	c := &verifyCase{TB: t, Watched: watched, ca: ca}
	c.previousLeaf, c.candidateLeaf = ca.Issue(t, "service.test"), ca.Issue(t, "service.test")
	c.want = verify.Expectation{Fingerprint: c.candidateLeaf.Fingerprint, Previous: c.previousLeaf.Fingerprint}
	return c
}

type verifyCase struct {
	testing.TB
	Watched
	ca            *Authority
	previousLeaf  Issued
	candidateLeaf Issued
	want          verify.Expectation
}

// look verifies once and checks what holds of every sighting.
func (c *verifyCase) look() []verify.Sighting {
	c.Helper()
	before := time.Now().Add(-time.Second)
	sightings, err := c.Verifier.Verify(c.Context(), c.want)
	if err != nil {
		c.Fatalf("verify: %v", err)
	}
	if len(sightings) != c.Addresses {
		c.Fatalf("got %d sightings, want one for each of %d addresses", len(sightings), c.Addresses)
	}
	seen := map[string]bool{}
	for _, s := range sightings {
		if s.Address == "" || seen[s.Address] {
			c.Errorf("address %q is empty or seen twice", s.Address)
		}
		seen[s.Address] = true
		if s.At.Before(before) {
			c.Errorf("%s: seen at %v, before the look", s.Address, s.At)
		}
		if s.Detail == "" && (s.Standing == activities.Broken || s.Standing == activities.Unverifiable) {
			c.Errorf("%s is %s without saying why", s.Address, s.Standing)
		}
	}
	return sightings
}

// wantAll checks that every address is seen alike.
func (c *verifyCase) wantAll(standing activities.Standing, serves string) {
	c.Helper()
	for _, s := range c.look() {
		if s.Standing != standing || s.Serves != serves {
			c.Errorf("%s: %s, uses %q (%s); want %s, %q", s.Address, s.Standing, s.Serves, s.Detail, standing, serves)
		}
	}
}

func (c *verifyCase) candidate() {
	c.Use(c.candidateLeaf)
	c.wantAll(activities.UsesCandidate, c.candidateLeaf.Fingerprint)
}

func (c *verifyCase) previous() {
	c.Use(c.previousLeaf)
	c.wantAll(activities.UsesPrevious, c.previousLeaf.Fingerprint)
}

func (c *verifyCase) straggler() {
	if c.UseAt == nil {
		return // all its addresses use the same files
	}
	c.Use(c.candidateLeaf)
	c.UseAt(1, c.previousLeaf)
	stragglers := 0
	for _, s := range c.look() {
		if s.Standing == activities.UsesPrevious && s.Serves == c.previousLeaf.Fingerprint {
			stragglers++
		} else if s.Standing != activities.UsesCandidate {
			c.Errorf("%s: %s (%s), want %s", s.Address, s.Standing, s.Detail, activities.UsesCandidate)
		}
	}
	if stragglers != 1 {
		c.Errorf("got %d stragglers, want 1", stragglers)
	}
}

func (c *verifyCase) fresh() {
	c.Use(c.previousLeaf)
	c.wantAll(activities.UsesPrevious, c.previousLeaf.Fingerprint)
	c.Use(c.candidateLeaf)
	c.wantAll(activities.UsesCandidate, c.candidateLeaf.Fingerprint)
	c.Use(c.previousLeaf)
	c.wantAll(activities.UsesPrevious, c.previousLeaf.Fingerprint)
}

func (c *verifyCase) neither() {
	third := c.ca.Issue(c, "service.test")
	c.Use(third)
	for _, s := range c.look() {
		if s.Standing == activities.UsesCandidate || s.Serves != third.Fingerprint || s.Detail == "" {
			c.Errorf("%s: %s, uses %q, detail %q; want it named as neither", s.Address, s.Standing, s.Serves, s.Detail)
		}
	}
}

func (c *verifyCase) foreign() {
	foreign := NewAuthority(c, "consumers").Issue(c, "service.test") // of the same name, on purpose
	c.Use(foreign)
	c.wantAll(activities.Broken, foreign.Fingerprint)
}

func (c *verifyCase) expired() {
	expired := c.ca.Issue(c, "service.test", func(template *x509.Certificate) {
		template.NotAfter = time.Now().Add(-time.Minute)
	})
	c.Use(expired)
	c.wantAll(activities.Broken, expired.Fingerprint)
}

func (c *verifyCase) badCandidate() {
	bad := NewAuthority(c, "consumers").Issue(c, "service.test")
	c.want.Fingerprint = bad.Fingerprint
	c.Use(bad)
	c.wantAll(activities.Broken, bad.Fingerprint)
}

func (c *verifyCase) stopped() {
	c.Use(c.candidateLeaf)
	c.Stop(1)
	missing := 0
	for _, s := range c.look() {
		if s.Standing != activities.UsesCandidate {
			missing++
		}
		if s.Standing == activities.UsesPrevious {
			c.Errorf("%s: seen as %s although it was stopped", s.Address, s.Standing)
		}
	}
	if missing != 1 {
		c.Errorf("got %d addresses that are not proven, want 1", missing)
	}
}

func (c *verifyCase) nobody() {
	sightings, err := c.Nobody.Verify(c.Context(), c.want)
	if err != nil {
		c.Fatalf("verify: %v", err)
	}
	if len(sightings) != 1 || sightings[0].Standing != activities.Unverifiable || sightings[0].Detail == "" {
		c.Errorf("got %+v, want one sighting that is unverifiable and says why", sightings)
	}
}

func (c *verifyCase) cancelled() {
	c.Use(c.candidateLeaf)
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	sightings, err := c.Verifier.Verify(ctx, c.want)
	for _, s := range sightings {
		if s.Standing == activities.UsesCandidate || s.Standing == activities.Broken {
			c.Errorf("%s: %s (%s), although nothing could be seen", s.Address, s.Standing, s.Detail)
		}
	}
	if len(sightings) == 0 && err == nil {
		c.Errorf("got no sighting and no error")
	}
}
