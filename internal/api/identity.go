package api

import (
	"context"
	"net/http"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
)

// IdentityRequest asks for a fresh certificate of the caller's own identity.
type IdentityRequest struct {
	Request []byte `json:"request"` // PKCS #10, DER; what it says of names is ignored
}

// Identity is what the installation's authority answers.
type Identity struct {
	Chain string `json:"chain"` // PEM, the leaf first
	Roots string `json:"roots"` // PEM, every root that peers may be signed by
}

// renew signs for the identity that the caller has just proven, and for no other: the name is taken from
// the verified certificate alone. Every identity may do that, whatever else it may do here.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	caller, err := Caller(r)
	if err != nil {
		Refuse(w, activities.Errorf(activities.Denied, "identify caller: %w", err))
		return
	}
	// The handshake has checked the certificate; a connection that is kept open may outlive it.
	if end := r.TLS.VerifiedChains[0][0].NotAfter; !s.Now().Before(end) {
		Refuse(w, activities.Errorf(activities.Denied, "renew identity %q: its certificate expired at %s", caller, end.UTC().Format(time.RFC3339)))
		return
	}
	if s.Authority == nil {
		Refuse(w, activities.Errorf(activities.NotFound, "renew identity %q: no authority for identities is here", caller))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	var request IdentityRequest
	if err := decode(r, &request); err != nil {
		Refuse(w, err)
		return
	}
	issued, err := s.Authority.Renewer(caller)(r.Context(), request.Request)
	if err != nil {
		Refuse(w, activities.Errorf(activities.Invalid, "%w", err))
		return
	}
	s.Logger.Debug("identity renewed", "identity", caller)
	reply(w, Identity{Chain: string(issued.Chain), Roots: string(issued.Roots)})
}

// RenewIdentity obtains a certificate for the client's own identity. It is an [identity.Renewer].
func (c *Client) RenewIdentity(ctx context.Context, request []byte) (identity.Issued, error) {
	answer, err := call[Identity](ctx, c, http.MethodPost, "/v1/identity", IdentityRequest{Request: request})
	return identity.Issued{Chain: []byte(answer.Chain), Roots: []byte(answer.Roots)}, err
}
