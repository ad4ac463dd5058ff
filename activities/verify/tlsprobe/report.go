package tlsprobe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/verify"
)

var fingerprintForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ask asks an instance of the consumer which certificate it uses, twice over fresh connections.
func (v *Verifier) ask(ctx context.Context, address string, expectation verify.Expectation) verify.Sighting {
	look := v.twice(func(e endpoint) verify.Sighting {
		uses, err := v.reported(ctx, address)
		if err != nil {
			return verify.Sighting{Standing: activities.Unverifiable, Detail: err.Error()}
		}
		return compare(uses, expectation)
	})
	return look(endpoint{address: withoutQuery(address)})
}

// reported reads {"fingerprint": "..."} from the URL.
func (v *Verifier) reported(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, v.config.Timeout)
	defer cancel()
	config := &tls.Config{MinVersion: tls.VersionTLS12, Time: v.options.Now}
	if strings.HasPrefix(address, "https:") {
		roots, err := v.roots(ctx)
		if err != nil {
			return "", err
		}
		config.RootCAs = roots
	}
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DialContext: v.options.Dial},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fmt.Errorf("ask the consumer: the configured url is none")
	}
	response, err := client.Do(request)
	if err != nil {
		if wrapped, ok := err.(*url.Error); ok { //nolint:errorlint // that is what Do returns
			err = wrapped.Err
		}
		return "", fmt.Errorf("ask the consumer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask the consumer: it answers %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	var answer struct {
		Fingerprint string `json:"fingerprint"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer); err != nil {
		return "", fmt.Errorf("ask the consumer: its answer is no JSON object with a fingerprint")
	}
	fingerprint := strings.ToLower(strings.ReplaceAll(answer.Fingerprint, ":", ""))
	if !fingerprintForm.MatchString(fingerprint) {
		return "", fmt.Errorf("ask the consumer: its answer has no SHA-256 fingerprint")
	}
	return fingerprint, nil
}

// withoutQuery returns an address that can be shown.
func withoutQuery(address string) string {
	address, _, _ = strings.Cut(address, "?")
	return address
}
