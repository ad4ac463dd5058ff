package tlsprobe_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/verify/tlsprobe"
	"castellan.dev/testsuite/conformance"
)

// peerOf is a server that demands certificates of the bench's authority.
func (b *bench) peer(t *testing.T, wait time.Duration, addresses ...string) *tlsprobe.Peer {
	t.Helper()
	config := tlsprobe.PeerConfig{Endpoints: b.config.Endpoints, Wait: wait}
	config.Addresses = append(config.Addresses, addresses...)
	wantNoProblems(t, config)
	return tlsprobe.NewPeer(config, tlsprobe.Options{})
}

func TestARevokedCertificateIsProvenRefused(t *testing.T) {
	for name, c := range map[string]struct {
		peer   func(t *testing.T, b *bench)
		wait   time.Duration
		proven bool
		says   string
	}{
		"a peer that checks revocation": {
			peer:   func(_ *testing.T, b *bench) { b.server.revoked = []string{b.previous.Pair.Leaf.SerialNumber.String()} },
			proven: true, says: "refuses the previous",
		},
		"a peer that checks no revocation": {peer: func(*testing.T, *bench) {}, wait: time.Millisecond, says: "accepts the previous"},
		"a peer that refuses everybody": {
			peer: func(t *testing.T, b *bench) { b.server.clients = conformance.NewAuthority(t, "other").Pool() },
			says: "refuses the candidate, too",
		},
		"a peer that asks nobody": {peer: func(_ *testing.T, b *bench) { b.server.clients = nil }, says: "asks for no client certificate"},
		"a previous certificate that has expired anyway": {
			peer: func(t *testing.T, b *bench) {
				b.previous = b.ca.Issue(t, "service.test", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
			},
			says: "has expired",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			b.server.with(func() { b.server.clients = b.ca.Pool(); c.peer(t, b) })
			proven, sentence, err := b.peer(t, c.wait).Refused(t.Context(), b.previous.Pair, b.candidate.Pair)
			if err != nil || proven != c.proven || !strings.Contains(sentence, c.says) {
				t.Errorf("got %v, %q, %v; want %v with %q", proven, sentence, err, c.proven, c.says)
			}
		})
	}
}

func TestAPeerMayLearnOfARevocationLater(t *testing.T) {
	b := newBench(t, nil)
	b.server.with(func() { b.server.clients = b.ca.Pool() })
	type answer struct {
		proven   bool
		sentence string
		err      error
	}
	answered := make(chan answer, 1)
	go func() {
		proven, sentence, err := b.peer(t, time.Minute).Refused(t.Context(), b.previous.Pair, b.candidate.Pair)
		answered <- answer{proven, sentence, err}
	}()
	for asked := 0; asked < 4; b.server.with(func() { asked = b.server.accepted }) {
		time.Sleep(time.Millisecond)
	}
	b.server.with(func() { b.server.revoked = []string{b.previous.Pair.Leaf.SerialNumber.String()} })
	if got := <-answered; !got.proven || got.err != nil {
		t.Errorf("got %+v, want it proven", got)
	}
}

func TestOnePeerOfSeveralThatAcceptsIsNotProven(t *testing.T) {
	b := newBench(t, nil)
	careless := listen(t, "127.0.0.1", func(s *server) { s.clients = b.ca.Pool() })
	careless.use(b.candidate)
	b.server.with(func() {
		b.server.clients, b.server.revoked = b.ca.Pool(), []string{b.previous.Pair.Leaf.SerialNumber.String()}
	})
	proven, sentence, err := b.peer(t, time.Millisecond, careless.Address).Refused(t.Context(), b.previous.Pair, b.candidate.Pair)
	if err != nil || proven || !strings.Contains(sentence, careless.Address) {
		t.Errorf("got %v, %q, %v; want the careless peer named", proven, sentence, err)
	}
}

func TestAPeerThatCannotBeAskedIsAnError(t *testing.T) {
	b := newBench(t, nil)
	b.server.stop()
	_, _, err := b.peer(t, time.Millisecond).Refused(t.Context(), b.previous.Pair, b.candidate.Pair)
	if err == nil || activities.KindOf(err) != activities.Transient {
		t.Errorf("got %v, want kind %q", err, activities.Transient)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if proven, _, _ := b.peer(t, time.Millisecond).Refused(ctx, b.previous.Pair, b.candidate.Pair); proven {
		t.Error("a peer that was not asked is proven")
	}
}
