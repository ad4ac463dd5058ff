package stepca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	patience = 15 * time.Second // of one call; below the activity's, so that a stall is classified here
	maxReply = 1 << 20
	maxList  = 16 << 20
)

// call is one request to the CA.
type call struct {
	act     string // for errors: "sign certificate"
	method  string
	path    string
	query   url.Values
	effect  bool             // the CA changes something: a lost reply is Uncertain
	present *tls.Certificate // client certificate
	limit   int64            // of the reply's body; default maxReply
	secret  string           // what an error must not repeat: the CA, or a proxy, may quote our request
}

// reply is a successful answer.
type reply struct {
	body []byte
}

// do makes the call on a fresh connection. A connection that was kept alive may have been closed by
// the CA meanwhile, and a write into it would look like a lost reply.
func (s *Issuer) do(ctx context.Context, c call, body []byte) (reply, error) {
	anchors, err := s.anchors()
	if err != nil {
		return reply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The handshake ends before GotConn; whatever fails later may have reached the CA.
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})

	address := s.base.JoinPath(c.path)
	address.RawQuery = c.query.Encode()
	request, err := http.NewRequestWithContext(ctx, c.method, address.String(), bytes.NewReader(body))
	if err != nil {
		return reply{}, s.lost(c, false, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client(anchors, c.present).Do(request)
	if err != nil {
		return reply{}, s.lost(c, sent.Load(), err)
	}
	defer response.Body.Close()
	s.observe(response.Header)

	limit := c.limit
	if limit == 0 {
		limit = maxReply
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if response.StatusCode/100 != 2 {
		return reply{}, s.refused(c, response.StatusCode, response.Header, content)
	}
	if err != nil {
		return reply{}, s.lost(c, true, err)
	}
	if int64(len(content)) > limit {
		return reply{}, s.unreadable(c, "it is larger than %d bytes", limit)
	}
	return reply{body: content}, nil
}

// client trusts the anchors and nothing else, follows no redirect and keeps no connection.
func client(anchors []*x509.Certificate, present *tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	for _, anchor := range anchors {
		pool.AddCert(anchor)
	}
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if present != nil {
		// Certificates would be held back if the CA named other issuers; the CA shall say so itself.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return present, nil }
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			TLSClientConfig:   config,
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// observe learns how far the CA's clock is ahead of ours, because the CA judges a token's times by its
// own clock and refuses tokens from before its start.
func (s *Issuer) observe(header http.Header) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return
	}
	ahead := date.Sub(s.now())
	if ahead.Abs() < 2*time.Second {
		ahead = 0 // the header is cut to seconds: no more than its rounding
	} else {
		ahead += time.Second
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead = ahead
}

// time returns the CA's time, as far as it is known.
func (s *Issuer) time() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now().Add(s.ahead)
}

// shorten keeps a foreign text to one line of reasonable length.
func shorten(text string) string {
	const limit = 300
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}
