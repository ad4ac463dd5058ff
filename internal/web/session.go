package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"sync"
	"time"
)

// digest is what is kept of a token; who reads it cannot use it.
type digest [sha256.Size]byte

// newToken returns 256 random bits as text.
func newToken() string {
	bits := make([]byte, 32)
	rand.Read(bits) // never fails
	return base64.RawURLEncoding.EncodeToString(bits)
}

// session is one login.
type session struct {
	user string
	ends time.Time
}

// mostSessions bounds the memory that logins take; beyond it the one that ends first is ended.
const mostSessions = 1000

// sessions are the logins under way. They are kept in memory by the hashes of their tokens: a restart
// ends them all.
type sessions struct {
	now  func() time.Time
	life time.Duration

	mu   sync.Mutex
	open map[digest]session
}

// begin returns the token of a new session.
func (s *sessions) begin(user string) string {
	token := newToken()
	s.mu.Lock()
	defer s.mu.Unlock()
	var first digest
	for id, known := range s.open {
		if !s.now().Before(known.ends) {
			delete(s.open, id)
		} else if s.open[first].ends.IsZero() || known.ends.Before(s.open[first].ends) {
			first = id
		}
	}
	if len(s.open) >= mostSessions {
		delete(s.open, first)
	}
	s.open[sha256.Sum256([]byte(token))] = session{user: user, ends: s.now().Add(s.life)}
	return token
}

// find returns whose session a token is. The lookup goes by the token's hash, so its time tells nothing
// about the token.
func (s *sessions) find(token string) (user string, ok bool) {
	id := digest(sha256.Sum256([]byte(token)))
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.open[id]
	if ok && !s.now().Before(known.ends) {
		delete(s.open, id)
		return "", false
	}
	return known.user, ok
}

func (s *sessions) end(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(token)))
}

// cookieName carries the port: cookies do not know ports, and two castellan-dev on one machine would
// sign each other out.
func (s *Site) cookieName() string {
	_, port, _ := net.SplitHostPort(s.parts.Address) // checked by New
	return "castellan-" + port
}

func (s *Site) sessionOf(r *http.Request) (user string, ok bool) {
	cookie, err := r.Cookie(s.cookieName())
	if err != nil {
		return "", false
	}
	return s.sessions.find(cookie.Value)
}

// enter signs a person in. A session that the browser had before ends, so none can be planted.
func (s *Site) enter(w http.ResponseWriter, r *http.Request, user string) {
	s.leave(r)
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(), Value: s.sessions.begin(user), Path: "/", HttpOnly: true,
		SameSite: http.SameSiteStrictMode, MaxAge: int(s.parts.Session / time.Second),
	})
}

func (s *Site) leave(r *http.Request) {
	if cookie, err := r.Cookie(s.cookieName()); err == nil {
		s.sessions.end(cookie.Value)
	}
}

// setup is the one-time token with which the first user is made.
type setup struct {
	mu    sync.Mutex
	token string // to be shown once; empty afterwards
	kept  digest
	armed bool
}

// arm makes a token.
func (s *setup) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = newToken()
	s.kept, s.armed = sha256.Sum256([]byte(s.token)), true
}

// shown returns the token the first time it is asked for, and forgets all but its hash.
func (s *setup) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := s.token
	s.token = ""
	return token
}

// fits reports whether the token is the one. The caller holds no lock.
func (s *setup) fits(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fitsLocked(token)
}

func (s *setup) fitsLocked(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], s.kept[:]) == 1 && s.armed
}

// use calls make while the token fits and nobody else uses it; the token ends when make succeeds.
func (s *setup) use(token string, make func() error) (fits bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fitsLocked(token) {
		return false, nil
	}
	if err := make(); err != nil {
		return true, err
	}
	s.armed, s.token = false, ""
	return true, nil
}
