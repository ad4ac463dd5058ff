package web

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"math"
	"net/http"
)

// form is what the login and setup pages show.
type form struct {
	Problem string
	Name    string
	Next    string
	Token   string
	Setup   bool // nobody can sign in yet
}

func (s *Site) showLogin(w http.ResponseWriter, r *http.Request) {
	next := local(r.URL.Query().Get("next"))
	if _, ok := s.sessionOf(r); ok {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	s.show(w, http.StatusOK, "login.html", page{Title: "Sign in", Body: form{Next: next, Setup: s.users.none()}})
}

func (s *Site) login(w http.ResponseWriter, r *http.Request) {
	name, next := r.PostFormValue("user"), local(r.PostFormValue("next"))
	refused := form{Name: name, Next: next, Setup: s.users.none()}
	if wait := s.attempts.begin(name); wait > 0 {
		seconds := int(math.Ceil(wait.Seconds()))
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
		refused.Problem = fmt.Sprintf("Too many failed logins. Try again in %d s.", seconds)
		s.parts.Logger.Warn("login refused: too many failures", "wait", wait.String())
		s.show(w, http.StatusTooManyRequests, "login.html", page{Title: "Sign in", Body: refused})
		return
	}
	if !s.users.verify(name, r.PostFormValue("password")) {
		refused.Problem = "Name or password is wrong."
		s.parts.Logger.Warn("login failed") // not the name: people type passwords there
		s.show(w, http.StatusUnauthorized, "login.html", page{Title: "Sign in", Body: refused})
		return
	}
	s.attempts.succeeded(name)
	s.parts.Logger.Info("signed in", "user", name)
	s.enter(w, r, name)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (s *Site) logout(w http.ResponseWriter, r *http.Request) {
	s.leave(r)
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// spent is what a setup link shows that does not fit, whatever the reason.
const spent = "This setup link is used up or wrong. castellan-dev prints a fresh one when it starts, as long as there is no user."

func (s *Site) showSetup(w http.ResponseWriter, r *http.Request) {
	token := r.URL.Query().Get("token")
	if !s.setup.fits(token) {
		s.sorry(w, r, http.StatusForbidden, spent)
		return
	}
	s.show(w, http.StatusOK, "setup.html", page{Title: "First user", Body: form{Token: token}})
}

func (s *Site) makeUser(w http.ResponseWriter, r *http.Request) {
	name, password := r.PostFormValue("user"), r.PostFormValue("password")
	fits, err := s.setup.use(r.PostFormValue("token"), func() error {
		if subtle.ConstantTimeCompare([]byte(password), []byte(r.PostFormValue("repeat"))) != 1 {
			return errUnfit("The passwords differ.")
		}
		return s.users.add(name, password, s.parts.Now())
	})
	var unfit errUnfit
	switch {
	case !fits:
		s.sorry(w, r, http.StatusForbidden, spent)
	case errors.As(err, &unfit):
		s.show(w, http.StatusUnprocessableEntity, "setup.html",
			page{Title: "First user", Body: form{Token: r.PostFormValue("token"), Name: name, Problem: unfit.Error()}})
	case err != nil:
		s.parts.Logger.Error("make first user", "error", err)
		s.sorry(w, r, http.StatusInternalServerError, "The user could not be written; the log says why.")
	default:
		s.parts.Logger.Info("first user made", "user", name)
		s.enter(w, r, name)
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}
