package tlsprobe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/verify"
)

// Options are what a prober gets from its worker. The zero value works where the configuration names a
// roots file.
type Options struct {
	Sources  []Source                                                // more addresses than the configuration's
	Roots    func(ctx context.Context) ([]byte, error)               // PEM of the clients' bundle, when the configuration names no file
	Resolver Resolver                                                // default: net.DefaultResolver
	Dial     func(context.Context, string, string) (net.Conn, error) // default: net.Dialer
	Now      func() time.Time                                        // default: time.Now
}

// prober shakes hands with endpoints.
type prober struct {
	config  Endpoints
	options Options
}

func newProber(config Endpoints, options Options) *prober {
	if options.Resolver == nil {
		options.Resolver = net.DefaultResolver
	}
	if options.Dial == nil {
		options.Dial = new(net.Dialer).DialContext
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	return &prober{config: config.withDefaults(), options: options}
}

// roots returns the bundle that clients hold at this moment. It is read each time: it rotates, too.
func (p *prober) roots(ctx context.Context) (*x509.CertPool, error) {
	var text []byte
	var err error
	switch {
	case p.config.RootsFile != "":
		text, err = readBounded(p.config.RootsFile)
	case p.options.Roots != nil:
		text, err = p.options.Roots(ctx)
	default:
		err = errors.New("no bundle is configured")
	}
	if err != nil {
		return nil, fmt.Errorf("read the bundle that clients hold: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("the bundle that clients hold has no certificate")
	}
	return pool, nil
}

// Verifier sees what one consumer uses. It implements verify.Verifier.
type Verifier struct {
	*prober
	consumer Config
}

// New returns the verifier of a checked configuration.
func New(config Config, options Options) *Verifier {
	return &Verifier{prober: newProber(config.Endpoints, options), consumer: config}
}

// Verify looks at every address, several at once.
func (v *Verifier) Verify(ctx context.Context, expectation verify.Expectation) ([]verify.Sighting, error) {
	endpoints, err := v.list(ctx)
	if err != nil {
		return nil, err
	}
	looks := make([]func() verify.Sighting, 0, len(endpoints)+len(v.consumer.Reports))
	if len(endpoints) > 0 {
		look := v.judge(ctx, expectation)
		for _, e := range endpoints {
			looks = append(looks, func() verify.Sighting { return look(e) })
		}
	}
	for _, url := range v.consumer.Reports {
		looks = append(looks, func() verify.Sighting { return v.ask(ctx, url, expectation) })
	}
	if len(looks) == 0 {
		return []verify.Sighting{{
			Standing: activities.Unverifiable, At: v.options.Now().UTC(), Detail: "the consumer has no address",
		}}, nil
	}
	return v.atOnce(looks), nil
}

// atOnce runs the looks, not more than the configured number at the same time.
func (p *prober) atOnce(looks []func() verify.Sighting) []verify.Sighting {
	sightings := make([]verify.Sighting, len(looks))
	slots := make(chan struct{}, p.config.Concurrent)
	var running sync.WaitGroup
	for i, look := range looks {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			sightings[i] = look()
		})
	}
	running.Wait()
	return sightings
}

// judge prepares what all looks of this round share, and returns how one address is looked at.
func (v *Verifier) judge(ctx context.Context, expectation verify.Expectation) func(endpoint) verify.Sighting {
	roots, err := v.roots(ctx)
	if err != nil {
		return v.all(activities.Unverifiable, "", err)
	}
	if v.consumer.Mode == ModeClient {
		presented, err := v.consumer.Presents.load()
		if err != nil && errors.Is(err, fs.ErrPermission) {
			return v.all(activities.Unverifiable, "", err)
		}
		if err != nil {
			return v.all(activities.Broken, "", err)
		}
		return v.twice(func(e endpoint) verify.Sighting {
			return v.asClient(v.meet(ctx, e, roots, presented), fingerprint(presented.Leaf), expectation)
		})
	}
	var presented *tls.Certificate
	if v.consumer.Identity != nil {
		if presented, err = v.consumer.Identity.load(); err != nil {
			return v.all(activities.Unverifiable, "", fmt.Errorf("read the probe's own certificate: %w", err))
		}
	}
	return v.twice(func(e endpoint) verify.Sighting {
		return v.asServer(v.meet(ctx, e, roots, presented), presented != nil, expectation)
	})
}

// all says the same of every address.
func (v *Verifier) all(standing activities.Standing, serves string, err error) func(endpoint) verify.Sighting {
	return func(e endpoint) verify.Sighting {
		return verify.Sighting{Address: e.address, Standing: standing, Serves: serves, At: v.options.Now().UTC(), Detail: err.Error()}
	}
}

// twice looks a second time at an address that uses the candidate: of several processes behind one
// socket the first may have reloaded and the next not.
func (v *Verifier) twice(look func(endpoint) verify.Sighting) func(endpoint) verify.Sighting {
	dated := func(e endpoint) verify.Sighting {
		sighting := look(e)
		sighting.Address, sighting.At = e.address, v.options.Now().UTC()
		return sighting
	}
	return func(e endpoint) verify.Sighting {
		first := dated(e)
		if first.Standing != activities.UsesCandidate {
			return first
		}
		second := dated(e)
		if second.Standing != activities.UsesCandidate {
			second.Detail = joinDetail("after one handshake with the candidate", second.Detail)
		}
		return second
	}
}

// asServer judges a meeting with a consumer that is a server.
func (v *Verifier) asServer(m meeting, presented bool, expectation verify.Expectation) verify.Sighting {
	if m.stage == exchanged || errors.As(m.reason, new(statusRefused)) {
		return compare(m.serves, expectation)
	}
	sighting := verify.Sighting{Standing: activities.Broken, Serves: m.serves, Detail: describe(m)}
	switch {
	case m.own:
		sighting.Standing = activities.Unverifiable
	case m.asked && !presented && !errors.As(m.reason, new(unverified)):
		sighting.Standing = activities.Unverifiable
		sighting.Detail = "demands a client certificate, and the probe has none; " + sighting.Detail
	}
	return sighting
}

// asClient judges a meeting with a server to which the consumer's certificate was presented. What is
// wrong with the server itself says nothing about the consumer.
func (v *Verifier) asClient(m meeting, presents string, expectation verify.Expectation) verify.Sighting {
	sighting := verify.Sighting{Standing: activities.Unverifiable, Serves: presents}
	switch {
	case m.stage == exchanged && m.asked:
		return compare(presents, expectation)
	case m.stage == exchanged:
		sighting.Detail = "the server does not ask for a client certificate"
	case m.asked && (m.refused() || m.stage == exchanging && !m.own):
		sighting.Standing = activities.Broken
		sighting.Detail = "the server, shown the client's certificate, " + describe(m)
	default:
		sighting.Detail = "the server cannot judge the client: " + describe(m)
	}
	return sighting
}

// compare names what was seen to be in use and to work.
func compare(serves string, expectation verify.Expectation) verify.Sighting {
	sighting := verify.Sighting{Standing: activities.UsesPrevious, Serves: serves}
	switch {
	case serves == expectation.Fingerprint:
		sighting.Standing = activities.UsesCandidate
	case serves != expectation.Previous:
		sighting.Detail = "uses neither the candidate nor the previous certificate"
	}
	return sighting
}

func joinDetail(first, second string) string {
	if second == "" {
		return first
	}
	return first + ": " + second
}
