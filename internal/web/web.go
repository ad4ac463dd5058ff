package web

import (
	"cmp"
	"context"
	"embed"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"castellan.dev/activities/record"
	"castellan.dev/internal/api"
	"castellan.dev/internal/codec"
)

// API is what the page reads; *api.Client is one.
type API interface {
	Certificates(ctx context.Context, query url.Values) (api.List[api.Certificate], error)
	Certificate(ctx context.Context, name string) (api.Certificate, error)
	Live(ctx context.Context, name, run string) (api.Live, error)
	Rotations(ctx context.Context, query url.Values) (api.List[api.Rotation], error)
	Rotation(ctx context.Context, id string) (api.Rotation, error)
}

// Parts are what the page is made of.
type Parts struct {
	Address   string          // host:port under which it is served, a loopback one
	Namespace string          // of the engine, for links into Temporal's Web UI
	Users     string          // file of local users
	Session   time.Duration   // how long a login lasts; zero: 8h
	API       API             // as an identity that may only read
	Temporal  http.Handler    // Temporal's Web UI below /temporal
	Codec     *codec.Codec    // opens payloads for signed-in people
	Recorder  record.Recorder // of who opened what
	Now       func() time.Time
	Logger    *slog.Logger
	Cost      int // of bcrypt; zero: 12
}

// Site is the page with its users and sessions.
type Site struct {
	parts    Parts
	pages    *template.Template
	hosts    []string
	users    *users
	sessions *sessions
	attempts *attempts
	setup    *setup
}

//go:embed assets
var assets embed.FS

// New opens the users. While there is none, a setup token is made; [Site.Setup] tells it.
func New(parts Parts) (*Site, error) {
	parts.Session = cmp.Or(parts.Session, 8*time.Hour)
	hosts, err := hostsOf(parts.Address)
	if err != nil {
		return nil, err
	}
	known, err := openUsers(parts.Users, cmp.Or(parts.Cost, 12))
	if err != nil {
		return nil, err
	}
	s := &Site{
		parts: parts, hosts: hosts, users: known, attempts: newAttempts(parts.Now), setup: &setup{},
		sessions: &sessions{now: parts.Now, life: parts.Session, open: map[digest]session{}},
	}
	if s.pages, err = template.New("").Funcs(s.functions()).ParseFS(assets, "assets/*.html"); err != nil {
		return nil, err
	}
	if known.none() {
		s.setup.arm()
	}
	return s, nil
}

// Setup returns where the first user is made; empty when there is a user.
func (s *Site) Setup() string {
	token := s.setup.shown()
	if token == "" {
		return ""
	}
	return "http://" + s.parts.Address + "/setup?token=" + url.QueryEscape(token)
}

// Handler returns everything that the origin serves.
func (s *Site) Handler() http.Handler {
	mux := http.NewServeMux()
	files, _ := fs.Sub(assets, "assets") // the folder is embedded
	mux.Handle("GET /static/", s.ours(http.StripPrefix("/static/", static(http.FileServerFS(files)))))
	mux.Handle("GET /login", s.ours(http.HandlerFunc(s.showLogin)))
	mux.Handle("POST /login", s.ours(http.HandlerFunc(s.login)))
	mux.Handle("GET /setup", s.ours(http.HandlerFunc(s.showSetup)))
	mux.Handle("POST /setup", s.ours(http.HandlerFunc(s.makeUser)))
	mux.Handle("POST /logout", s.ours(http.HandlerFunc(s.logout)))
	mux.Handle("GET /{$}", s.ours(s.signedIn(http.HandlerFunc(s.overview))))
	mux.Handle("GET /certificates/{name}", s.ours(s.signedIn(http.HandlerFunc(s.certificate))))
	mux.Handle("GET /rotations/{id}", s.ours(s.signedIn(http.HandlerFunc(s.rotation))))
	mux.Handle("/temporal", s.signedIn(s.parts.Temporal))
	mux.Handle("/temporal/", s.signedIn(s.parts.Temporal))
	mux.Handle("/codec/", s.signedIn(codec.NewHandler(s.parts.Codec, s.audit)))
	mux.Handle("/", s.ours(s.signedIn(http.HandlerFunc(s.missing))))
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return s.named(guarded)
}

func (s *Site) missing(w http.ResponseWriter, r *http.Request) {
	s.sorry(w, r, http.StatusNotFound, "There is no such page.")
}
