package reload

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"castellan.dev/activities"
)

// HTTPConfig declares a reload by an HTTP request: POST with the body {"fingerprint": "..."} and the
// fingerprint as Idempotency-Key. Whoever receives it reads its files again once per key and answers 2xx.
type HTTPConfig struct {
	URL       string        `yaml:"url"`       // https; plain http only to this host's loopback addresses
	RootsFile string        `yaml:"rootsFile"` // PEM of the trust anchors of the receiver; default: the system's
	TokenFile string        `yaml:"tokenFile"` // a bearer token, read for each request; default: none
	Timeout   time.Duration `yaml:"timeout"`   // of the whole request; default 10s
	Accept    []int         `yaml:"accept"`    // status codes that mean success; default: every 2xx
}

const defaultHookTimeout = 10 * time.Second

// Check reports every problem of the configuration. The URL is not repeated: it may hold a secret.
func (c HTTPConfig) Check(report func(field, value, want string)) {
	address, err := url.Parse(c.URL)
	switch {
	case err != nil || address.Host == "" || address.Scheme != "https" && address.Scheme != "http":
		report("url", "", "a URL such as https://service.example.com/reload")
	case address.User != nil:
		report("url", address.Host, "a URL without user and password; name a tokenFile")
	case address.Scheme == "http" && !loopback(address.Hostname()):
		report("url", address.Host, "https, because the host is not a loopback address")
	}
	for field, path := range map[string]string{"rootsFile": c.RootsFile, "tokenFile": c.TokenFile} {
		if path != "" && !filepath.IsAbs(path) {
			report(field, path, "an absolute path")
		}
	}
	if c.Timeout < 0 {
		report("timeout", c.Timeout.String(), "a positive duration such as 10s")
	}
	for _, code := range c.Accept {
		if code < 200 || code > 299 {
			report("accept", strconv.Itoa(code), "status codes from 200 to 299")
		}
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// HTTP reloads by a request.
type HTTP struct {
	config HTTPConfig
	now    func() time.Time
}

// NewHTTP returns the reloader of a checked configuration.
func NewHTTP(config HTTPConfig, now func() time.Time) *HTTP {
	if config.Timeout == 0 {
		config.Timeout = defaultHookTimeout
	}
	return &HTTP{config: config, now: now}
}

// Reload sends the request. Redirects are not followed: the token is meant for the configured host.
func (h *HTTP) Reload(ctx context.Context, fingerprint string) error {
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout)
	defer cancel()
	client, err := h.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	request, err := h.request(ctx, fingerprint)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return h.failed(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	return h.judge(response)
}

// client makes a client for one request, so that files of roots may change at any time.
func (h *HTTP) client() (*http.Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.config.RootsFile != "" {
		text, err := os.ReadFile(h.config.RootsFile)
		if err != nil {
			return nil, activities.Errorf(activities.Invalid, "%s: read roots: %w", h.name(), err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, activities.Errorf(activities.Invalid, "%s: roots file %q holds no certificate", h.name(), h.config.RootsFile)
		}
	}
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (h *HTTP) request(ctx context.Context, fingerprint string) (*http.Request, error) {
	body, err := json.Marshal(map[string]string{"fingerprint": fingerprint})
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "%s: %w", h.name(), err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.config.URL, bytes.NewReader(body))
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "%s: the configured url is none", h.name())
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", fingerprint)
	if h.config.TokenFile != "" {
		token, err := os.ReadFile(h.config.TokenFile)
		if err != nil {
			return nil, activities.Errorf(activities.Transient, "%s: read token: %w", h.name(), err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return request, nil
}

// name says which hook without its path and query, which can hold secrets.
func (h *HTTP) name() string {
	if address, err := url.Parse(h.config.URL); err == nil {
		return "reload hook of " + address.Host
	}
	return "reload hook"
}

// failed classifies a request without an answer. The URL that the client put into the error is dropped.
func (h *HTTP) failed(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	kind := activities.Uncertain // it may have been received
	var dial *net.OpError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		kind = activities.Denied
	case errors.As(err, &dial) && dial.Op == "dial":
		kind = activities.Transient
	}
	return activities.Errorf(kind, "%s: %w", h.name(), err)
}

// judge classifies an answer.
func (h *HTTP) judge(response *http.Response) error {
	code := response.StatusCode
	if code/100 == 2 {
		if len(h.config.Accept) == 0 {
			return nil
		}
		for _, accepted := range h.config.Accept {
			if code == accepted {
				return nil
			}
		}
	}
	problem := activities.Errorf(kindOfStatus(code), "%s: answered %d %s", h.name(), code, http.StatusText(code))
	if problem.Kind == activities.Throttled || code == http.StatusServiceUnavailable {
		problem.RetryAfter = h.retryAfter(response.Header.Get("Retry-After"))
		if problem.RetryAfter > 0 {
			problem.Kind = activities.Throttled
		}
	}
	return problem
}

// kindOfStatus says what a status code other than success means for the caller.
func kindOfStatus(code int) activities.Kind {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return activities.Denied
	case http.StatusNotFound, http.StatusGone:
		return activities.NotFound
	case http.StatusConflict:
		return activities.Conflict
	case http.StatusTooManyRequests:
		return activities.Throttled
	case http.StatusRequestTimeout, http.StatusLocked, http.StatusTooEarly:
		return activities.Transient
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return activities.Invalid
	}
	if code >= 500 {
		return activities.Transient
	}
	return activities.Invalid // a redirect, another success than the accepted one, or a mistake in the request
}

// maxRetryAfter bounds what a hook may ask for.
const maxRetryAfter = 10 * time.Minute

func (h *HTTP) retryAfter(text string) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(h.now())
	}
	return min(max(wait, 0), maxRetryAfter)
}
