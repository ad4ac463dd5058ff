package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Probe makes one fresh connection with one request, and says what went wrong.
type Probe func(ctx context.Context) error

// Load probes all the time. A probe is never repeated: what fails, failed.
type Load struct {
	probe Probe
	every time.Duration
	limit chan struct{} // probes under way

	mu    sync.Mutex
	count Count
	over  bool
}

// Count is what a load has seen.
type Count struct {
	Probes  int           // ended ones
	Failed  int           //
	Skipped int           // not begun because too many were under way
	Longest time.Duration // between the ends of two successive successful probes
	Began   time.Time
	Last    time.Time // end of the last successful probe
	Failure string    // what the first failure said
}

// Interval returns how long it took from one probe to the next, on average.
func (c Count) Interval() time.Duration {
	if c.Probes < 2 || c.Last.Before(c.Began) {
		return 0
	}
	return c.Last.Sub(c.Began) / time.Duration(c.Probes)
}

// maxUnderWay bounds how many probes may wait for an answer at once.
const maxUnderWay = 64

// NewLoad prepares a load that begins a probe at every interval.
func NewLoad(every time.Duration, probe Probe) *Load {
	return &Load{probe: probe, every: every, limit: make(chan struct{}, maxUnderWay)}
}

// Run probes until the context ends and waits for the probes under way, so that none is cut short by the
// end of the show itself.
func (l *Load) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer func() {
		group.Wait()
		l.mu.Lock()
		l.over = true
		l.mu.Unlock()
	}()
	now := time.Now()
	l.mu.Lock()
	l.count.Began, l.count.Last = now, now
	l.mu.Unlock()
	ticker := time.NewTicker(l.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		select {
		case l.limit <- struct{}{}:
			group.Go(func() {
				defer func() { <-l.limit }()
				l.note(l.probe(context.WithoutCancel(ctx)))
			})
		default:
			l.mu.Lock()
			l.count.Skipped++
			l.mu.Unlock()
		}
	}
}

// note counts a probe that ended.
func (l *Load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Probes++
	if err != nil {
		l.count.Failed++
		if l.count.Failure == "" {
			l.count.Failure = time.Now().UTC().Format(time.TimeOnly) + " " + err.Error()
		}
		return
	}
	now := time.Now()
	l.count.Longest = max(l.count.Longest, now.Sub(l.count.Last))
	l.count.Last = now
}

// Count returns what was seen so far. A gap that has not ended counts, too.
func (l *Load) Count() Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := l.count
	if !count.Last.IsZero() && !l.over {
		count.Longest = max(count.Longest, time.Since(count.Last))
	}
	return count
}

// request returns the probe of the show: a request to orders, which makes one to payments.
func request(address, root string) (Probe, error) {
	roots, err := pool(root)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: roots, ServerName: "orders.internal"}
	return func(ctx context.Context) error { return ask(ctx, address, config, "payments") }, nil
}

// ask makes one connection and one request, and demands the answer of the named service.
func ask(ctx context.Context, address string, config *tls.Config, want string) error {
	config = config.Clone()
	config.MinVersion, config.SessionTicketsDisabled = tls.VersionTLS13, true
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DialContext: new(net.Dialer).DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: 15 * time.Second, Transport: transport}
	call, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(call)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || len(text) < len(want) || string(text[:len(want)]) != want {
		return fmt.Errorf("status %d: %s", response.StatusCode, strings.TrimSpace(string(text)))
	}
	return nil
}

// pool reads a bundle.
func pool(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("read bundle: it holds no certificate")
	}
	return roots, nil
}
