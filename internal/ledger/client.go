package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// maxAnswer bounds what a client reads.
const maxAnswer = 256 << 10

// Client submits to a ledger in another process. It does not retry: the activity does.
type Client struct {
	base string
	http *http.Client
}

var _ record.Recorder = (*Client)(nil)

// NewClient returns a client of the ledger at the base URL. The HTTP client carries the zone's identity
// (mTLS) and a timeout.
func NewClient(base string, client *http.Client) *Client {
	return &Client{strings.TrimSuffix(base, "/") + Path, client}
}

// Append implements record.Recorder.
func (c *Client) Append(ctx context.Context, entry record.Entry) (string, error) {
	receipt, err := c.Submit(ctx, entry)
	return receipt.ID, err
}

// Submit appends the entry and returns the whole receipt. After any error it may be repeated: the ledger
// keeps one record.
func (c *Client) Submit(ctx context.Context, entry record.Entry) (Receipt, error) {
	if err := check(entry); err != nil {
		return Receipt{}, err
	}
	body, err := json.Marshal(entry)
	if err != nil {
		return Receipt{}, invalid("submit evidence: %w", err)
	}
	var receipt Receipt
	if err := c.call(ctx, "submit evidence", http.MethodPost, c.base, body, &receipt); err != nil {
		return Receipt{}, err
	}
	if receipt.ID != ID(entry) {
		return Receipt{}, transient("submit evidence: the answer is not about this entry")
	}
	return receipt, nil
}

// Record reads the record with the given id.
func (c *Client) Record(ctx context.Context, id string) (Record, error) {
	var r Record
	err := c.call(ctx, "read evidence", http.MethodGet, c.base+"/"+url.PathEscape(id), nil, &r)
	return r, err
}

func (c *Client) call(ctx context.Context, act, method, url string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return invalid("%s: %w", act, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return transient("%s: %w", act, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return transient("%s: read answer: %w", act, err)
	}
	if response.StatusCode != http.StatusOK {
		return refused(act, response, text)
	}
	if len(text) > maxAnswer {
		return transient("%s: read answer: longer than %d bytes", act, maxAnswer)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return transient("%s: read answer: %w", act, err)
	}
	return nil
}

// refused turns an answer that is not a success into an error. A kind in the body counts only where it fits
// the status: something between us and the ledger may have answered.
func refused(act string, response *http.Response, text []byte) error {
	kind := kindOf(response.StatusCode)
	detail := response.Status
	var told problem
	if json.Unmarshal(text, &told) == nil && told.Detail != "" && statusOf(told.Kind) == response.StatusCode {
		kind, detail = told.Kind, told.Detail
	}
	err := activities.Errorf(kind, "%s: %w", act, errors.New(detail))
	if seconds, parseErr := strconv.Atoi(response.Header.Get("Retry-After")); parseErr == nil && seconds > 0 && kind == activities.Throttled {
		err.RetryAfter = time.Duration(seconds) * time.Second
	}
	return err
}

// kindOf classifies a status. It is total: a status that nobody has thought of is Invalid when it blames
// the request, and Transient otherwise.
func kindOf(status int) activities.Kind {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return activities.Denied
	case status == http.StatusTooManyRequests:
		return activities.Throttled
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusMisdirectedRequest:
		return activities.Transient
	case status == http.StatusNotFound:
		return activities.NotFound
	case status == http.StatusConflict:
		return activities.Conflict
	case status >= 400 && status < 500:
		return activities.Invalid
	}
	return activities.Transient
}
