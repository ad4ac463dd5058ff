package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/workflows/rotation"
)

// Client speaks the JSON interface.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client for the interface at base, such as https://127.0.0.1:8443. The HTTP client
// carries the caller's identity.
func NewClient(base string, httpClient *http.Client) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), http: httpClient}
}

// Certificates lists certificates; the query takes owner, policy, group, state, expires_before,
// due_before, limit and cursor.
func (c *Client) Certificates(ctx context.Context, query url.Values) (List[Certificate], error) {
	return call[List[Certificate]](ctx, c, http.MethodGet, "/v1/certificates?"+query.Encode(), nil)
}

// Certificate shows one certificate with its consumers.
func (c *Client) Certificate(ctx context.Context, name string) (Certificate, error) {
	return call[Certificate](ctx, c, http.MethodGet, "/v1/certificates/"+url.PathEscape(name), nil)
}

// Rotate asks for a rotation.
func (c *Client) Rotate(ctx context.Context, name string, request RotateRequest) (Started, error) {
	return call[Started](ctx, c, http.MethodPost, "/v1/certificates/"+url.PathEscape(name)+"/rotate", request)
}

// Tell sends a message to the rotation under way and returns its state afterwards.
func (c *Client) Tell(ctx context.Context, name, message, reason string) (rotation.State, error) {
	return call[rotation.State](ctx, c, http.MethodPost, "/v1/certificates/"+url.PathEscape(name)+"/messages/"+url.PathEscape(message), MessageRequest{Reason: reason})
}

// Live asks the workflow of a target what it does now. An empty run is the latest.
func (c *Client) Live(ctx context.Context, name, run string) (Live, error) {
	return call[Live](ctx, c, http.MethodGet, "/v1/certificates/"+url.PathEscape(name)+"/live?run="+url.QueryEscape(run), nil)
}

// Rotations lists rotation records; the query takes target, state, trigger, open, since, limit, cursor.
func (c *Client) Rotations(ctx context.Context, query url.Values) (List[Rotation], error) {
	return call[List[Rotation]](ctx, c, http.MethodGet, "/v1/rotations?"+query.Encode(), nil)
}

// Rotation shows one rotation record.
func (c *Client) Rotation(ctx context.Context, id string) (Rotation, error) {
	return call[Rotation](ctx, c, http.MethodGet, "/v1/rotations/"+url.PathEscape(id), nil)
}

// ScheduleDiff compares declared and actual schedules.
func (c *Client) ScheduleDiff(ctx context.Context) (Schedules, error) {
	return call[Schedules](ctx, c, http.MethodGet, "/v1/schedules", nil)
}

// ScheduleApply reconciles the schedules and says what it changed.
func (c *Client) ScheduleApply(ctx context.Context) (Schedules, error) {
	return call[Schedules](ctx, c, http.MethodPost, "/v1/schedules/apply", struct{}{})
}

// Evidence streams the ledger's export. The caller closes it.
func (c *Client) Evidence(ctx context.Context, query url.Values) (io.ReadCloser, error) {
	response, err := c.do(ctx, http.MethodGet, "/v1/evidence?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// answer bounds what a client reads of one answer.
const answer = 16 << 20

func call[T any](ctx context.Context, c *Client, method, path string, request any) (T, error) {
	var result T
	response, err := c.do(ctx, method, path, request)
	if err != nil {
		return result, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, answer)).Decode(&result); err != nil {
		return result, activities.Errorf(activities.Transient, "read answer to %s %s: %w", method, path, err)
	}
	return result, nil
}

func (c *Client) do(ctx context.Context, method, path string, request any) (*http.Response, error) {
	var content io.Reader
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			return nil, activities.Errorf(activities.Invalid, "encode request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	call, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "make request: %w", err)
	}
	response, err := c.http.Do(call)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, activities.Errorf(activities.Transient, "reach castellan at %s: %w", c.base, err)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	var problem Problem
	if err := json.NewDecoder(io.LimitReader(response.Body, body)).Decode(&problem); err != nil || problem.Error == "" {
		problem.Error = fmt.Sprintf("%s %s: status %s", method, path, response.Status)
	}
	kind := activities.Kind(problem.Kind)
	if kind == "" {
		kind = activities.Transient
	}
	return nil, activities.Errorf(kind, "%s", problem.Error)
}
