package tlscert_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/files"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/issue/stepca"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/activities/store/file"
	"castellan.dev/internal/ca"
	"castellan.dev/internal/keyring"
)

var issuerConfig stepca.Config

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tlscert-ca")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		authority, err := ca.Start(context.Background(), ca.Config{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			panic(err)
		}
		defer authority.Stop(context.Background())
		issuerConfig = stepca.Config{
			URL: authority.URL(), Root: authority.RootFile(), Provisioner: authority.Provisioner(), PasswordFile: authority.PasswordFile(),
		}
		return m.Run()
	}())
}

// bench is the kind with one certificate.
type bench struct {
	t     *testing.T
	dir   string
	clock time.Duration
	cert  tlscert.Certificate
	kind  *tlscert.Kind
	real  *stepca.Issuer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	keys := filepath.Join(b.dir, "keys")
	b.must(keyring.Create(keys))
	ring, err := keyring.Load(keys)
	b.must(err)
	secrets, err := file.Open(filepath.Join(b.dir, "store"), ring, b.now)
	b.must(err)
	t.Cleanup(func() { secrets.Close() })
	b.real, err = stepca.New(issuerConfig, time.Now)
	b.must(err)
	b.cert = tlscert.Certificate{Name: "payments", DNSNames: []string{"payments.test"}, Usage: "server", Issuer: b.real, Lifetime: time.Hour}
	for _, name := range []string{"one", "two"} {
		deliverer := files.New(files.Config{Directory: filepath.Join(b.dir, name)}, filepath.Join(b.dir, "state-"+name), b.now)
		b.cert.Deliveries = append(b.cert.Deliveries, tlscert.Delivery{Name: name, Deliverer: deliverer})
	}
	b.kind = tlscert.New(secrets, func(string) (tlscert.Certificate, bool) { return b.cert, true }, b.now)
	return b
}

func (b *bench) now() time.Time { return time.Now().Add(b.clock) }

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// issued mints and signs the candidate of an epoch.
func (b *bench) issued(rotation rotate.Rotation) activities.Candidate {
	b.t.Helper()
	_, err := b.kind.Mint(b.t.Context(), rotation)
	b.must(err)
	candidate, err := b.kind.Set(b.t.Context(), rotation)
	b.must(err)
	return candidate
}

func at(epoch activities.Epoch) rotate.Rotation {
	return rotate.Rotation{Target: "payments", ID: activities.NewRotationID("payments", epoch), Epoch: epoch}
}

// following returns the rotation after the one whose candidate is given.
func following(epoch activities.Epoch, previous activities.Candidate) rotate.Rotation {
	r := at(epoch)
	r.Previous = rotate.Known{Epoch: epoch - 1, Fingerprint: previous.Fingerprint, Serial: previous.Serial, NotAfter: previous.NotAfter}
	r.Expected = map[string]string{"one": previous.Fingerprint, "two": previous.Fingerprint}
	return r
}

// flawedIssuer is the real one with one flaw.
type flawedIssuer struct {
	*stepca.Issuer
	lose   int  // replies to lose
	silent bool // publishes no revocation list
	behind bool // its list is empty
}

func (f *flawedIssuer) Issue(ctx context.Context, r issue.Request) (issue.Certificate, error) {
	certificate, err := f.Issuer.Issue(ctx, r)
	if f.lose > 0 && err == nil {
		f.lose--
		return issue.Certificate{}, activities.Errorf(activities.Uncertain, "sign certificate: connection reset")
	}
	return certificate, err
}

func (f *flawedIssuer) RevocationList(ctx context.Context) (*x509.RevocationList, error) {
	switch {
	case f.silent:
		return nil, activities.Errorf(activities.NotFound, "read revocation list: 404 Not Found")
	case f.behind:
		return new(x509.RevocationList), nil
	}
	return f.Issuer.RevocationList(ctx)
}

func TestALostReplyIsSignedAgainOverTheSameKey(t *testing.T) {
	b := newBench(t)
	b.cert.Issuer = &flawedIssuer{Issuer: b.real, lose: 1}
	minted, err := b.kind.Mint(t.Context(), at(1))
	b.must(err)
	if _, err := b.kind.Set(t.Context(), at(1)); activities.KindOf(err) != activities.Uncertain {
		t.Fatalf("got %v, want it uncertain", err)
	}
	candidate, err := b.kind.Set(t.Context(), at(1))
	b.must(err)
	again, err := b.kind.Set(t.Context(), at(1))
	b.must(err)
	if candidate.KeyID != minted.KeyID || candidate.Lost != 1 || again.Serial != candidate.Serial {
		t.Errorf("got %+v then %+v after key %s, want one key, one lost, one kept", candidate, again, minted.KeyID)
	}
}

// peer answers what it is told.
type peer struct {
	proven bool
	err    error
}

func (p peer) Refused(context.Context, tls.Certificate, tls.Certificate) (bool, string, error) {
	return p.proven, "says the peer", p.err
}

func TestDeathIsProvenOrSaidNotToBe(t *testing.T) {
	for sentence, c := range map[string]struct {
		change      func(*bench, *rotate.Rotation)
		proven      bool
		says        string
		notProvable int
		kind        activities.Kind
	}{
		"a peer refuses it": {
			change: func(b *bench, _ *rotate.Rotation) {
				b.cert.Peers = []tlscert.Peer{{Name: "p", Probe: peer{proven: true}}}
			},
			proven: true, says: "revoked and listed",
		},
		"one of two peers accepts it": {
			change: func(b *bench, _ *rotate.Rotation) {
				b.cert.Peers = []tlscert.Peer{{Name: "p", Probe: peer{proven: true}}, {Name: "q", Probe: peer{}}}
			},
			says: "q: says the peer", notProvable: 1,
		},
		"a peer that checks nothing": {
			change: func(b *bench, _ *rotate.Rotation) { b.cert.Peers = []tlscert.Peer{{Name: "p"}} },
			says:   "not provable", notProvable: 1,
		},
		"nobody can be asked": {says: "no peer is configured"},
		"an issuer without a list does not keep the proof waiting for ever": {
			change: func(b *bench, _ *rotate.Rotation) {
				b.cert.Issuer = &flawedIssuer{Issuer: b.real, silent: true}
				b.cert.Peers = []tlscert.Peer{{Name: "p", Probe: peer{proven: true}}}
			},
			proven: true, says: "publishes no list",
		},
		"an issuer whose list is late": {
			change: func(b *bench, _ *rotate.Rotation) { b.cert.Issuer = &flawedIssuer{Issuer: b.real, behind: true} },
			kind:   activities.Transient,
		},
		"a previous that expired is dead, listed or not": {
			change: func(b *bench, _ *rotate.Rotation) {
				b.cert.Issuer = &flawedIssuer{Issuer: b.real, behind: true}
				b.clock = 2 * time.Hour
			},
			proven: true, says: "expired",
		},
		"a previous whose key castellan does not hold": {
			change: func(_ *bench, r *rotate.Rotation) { r.Previous.Epoch = 0 },
			says:   "revoke it at its issuer", notProvable: 1,
		},
		"there was none": {
			change: func(_ *bench, r *rotate.Rotation) { r.Previous = rotate.Known{} },
			proven: true, says: "no previous",
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			b := newBench(t)
			rotation := following(2, b.issued(at(1)))
			b.issued(rotation)
			if c.change != nil {
				c.change(b, &rotation)
			}
			got, err := b.kind.ProveDead(t.Context(), rotation)
			if c.kind != "" {
				if err == nil || activities.KindOf(err) != c.kind {
					t.Fatalf("got %v, want kind %s", err, c.kind)
				}
				return
			}
			b.must(err)
			if got.Proven != c.proven || len(got.NotProvable) != c.notProvable || !strings.Contains(got.Proof.Sentence, c.says) {
				t.Errorf("got %+v, want proven %v and %q", got, c.proven, c.says)
			}
		})
	}
}

// stuck is a delivery that cannot be reached.
type stuck struct{ deliver.Deliverer }

func (stuck) Restore(context.Context, activities.Epoch, activities.Epoch) (deliver.Visible, error) {
	return deliver.Visible{}, activities.Errorf(activities.Transient, "no route to host")
}

func TestOneStuckDeliveryDoesNotKeepTheOthersFromGoingBack(t *testing.T) {
	b := newBench(t)
	first := b.issued(at(1))
	both := []string{"one", "two"}
	_, err := b.kind.Publish(t.Context(), at(1), both)
	b.must(err)
	rotation := following(2, first)
	b.issued(rotation)
	_, err = b.kind.Publish(t.Context(), rotation, both)
	b.must(err)
	fine := b.cert.Deliveries[0]
	b.cert.Deliveries[0].Deliverer = stuck{fine.Deliverer}
	if _, err := b.kind.Restore(t.Context(), rotation, 3, both); activities.KindOf(err) != activities.Transient {
		t.Fatalf("got %v, want it tried again", err)
	}
	seen, err := b.cert.Deliveries[1].Deliverer.Observe(t.Context())
	b.must(err)
	if seen.Fingerprint != first.Fingerprint || seen.Epoch != 3 {
		t.Errorf("the other one: got %s under %d, want the previous under 3", seen.Fingerprint, seen.Epoch)
	}
	b.cert.Deliveries[0] = fine
	_, err = b.kind.Restore(t.Context(), rotation, 3, both)
	b.must(err)
	if _, err := b.kind.Publish(t.Context(), rotation, both); activities.KindOf(err) != activities.Fenced {
		t.Errorf("a late publication: got %v, want it fenced", err)
	}
}

func TestACandidateIsHeldAgainstTheConfiguration(t *testing.T) {
	for want, change := range map[string]func(*bench){
		`name "orders.test" is missing`:    func(b *bench) { b.cert.DNSNames = append(b.cert.DNSNames, "orders.test") },
		`address "192.0.2.1" is missing`:   func(b *bench) { b.cert.IPAddresses = []string{"192.0.2.1"} },
		`URI name "spiffe://x" is missing`: func(b *bench) { b.cert.URIs = []string{"spiffe://x"} },
		"key is ecdsa-p256, want ed25519":  func(b *bench) { b.cert.Algorithm = tlscert.Ed25519 },
		"expired":                          func(b *bench) { b.clock = 2 * time.Hour },
		"unknown authority":                func(b *bench) { text := foreignBundle(t); b.cert.Bundle = func() ([]byte, error) { return text, nil } },
		"":                                 func(*bench) {},
	} {
		b := newBench(t)
		b.issued(at(1))
		change(b)
		_, err := b.kind.Test(t.Context(), at(1))
		switch {
		case want == "":
			b.must(err)
		case err == nil || activities.KindOf(err) != activities.Failed || !strings.Contains(err.Error(), want):
			t.Errorf("got %v, want it failed: %s", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE") {
			t.Error("the error holds a key")
		}
	}
}

// foreignBundle is the root of another authority.
func foreignBundle(t *testing.T) []byte {
	t.Helper()
	authority, err := ca.Start(t.Context(), ca.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer authority.Stop(t.Context())
	text, err := os.ReadFile(authority.RootFile())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestLeftoversAreErasedWithThePrevious(t *testing.T) {
	b := newBench(t)
	b.issued(at(1))
	second := b.issued(at(2))
	rotation := following(3, second)
	rotation.Leftover = []activities.Epoch{1, 3} // its own is never erased
	b.issued(rotation)
	_, err := b.kind.Retire(t.Context(), rotation)
	b.must(err)
	for epoch, alive := range map[activities.Epoch]bool{1: false, 2: false, 3: true} {
		_, err := b.kind.Test(t.Context(), at(epoch))
		if (err == nil) != alive {
			t.Errorf("key of epoch %d: got %v, want alive %v", epoch, err, alive)
		}
	}
}
