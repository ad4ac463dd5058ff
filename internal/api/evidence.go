package api

import (
	"context"
	"net/http"
	"strings"

	"castellan.dev/activities"
)

// maxReason bounds what a person may have recorded for good.
const maxReason = 1000

// ChangeKeyRequest asks for another signing key of the ledger.
type ChangeKeyRequest struct {
	Reason string `json:"reason"`
}

// ChangedKey is the key that signs from now on.
type ChangedKey struct {
	Key string `json:"key"`
}

// changeKey replaces the ledger's signing key. The caller and the reason become part of the evidence.
func (s *Server) changeKey(r *http.Request) (any, error) {
	var request ChangeKeyRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	if reason := strings.TrimSpace(request.Reason); reason == "" || len(reason) > maxReason {
		return nil, activities.Errorf(activities.Invalid, "change signing key: want a reason of 1 to %d bytes", maxReason)
	}
	caller, err := Caller(r)
	if err != nil {
		return nil, activities.Errorf(activities.Denied, "identify caller: %w", err)
	}
	if s.ChangeKey == nil {
		return nil, activities.Errorf(activities.NotFound, "change signing key: no ledger is here")
	}
	// Half a change is put right only by a start: a caller who goes away does not end it.
	key, err := s.ChangeKey(context.WithoutCancel(r.Context()), caller, request.Reason)
	if err != nil {
		return nil, err
	}
	s.Logger.Warn("signing key of the ledger changed", "actor", caller)
	return ChangedKey{Key: key}, nil
}

// ChangeKey replaces the signing key of the ledger and returns the one that signs from now on.
func (c *Client) ChangeKey(ctx context.Context, reason string) (ChangedKey, error) {
	return call[ChangedKey](ctx, c, http.MethodPost, "/v1/evidence/key", ChangeKeyRequest{Reason: reason})
}
