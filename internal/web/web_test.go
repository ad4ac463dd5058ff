package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/encoding/protojson"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/api"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/web"
	"castellan.dev/workflows/rotation"
)

const (
	address  = "127.0.0.1:8233"
	origin   = "http://" + address
	password = "correct horse battery"
)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// inventory answers what a test put into it.
type inventory struct {
	certificates []api.Certificate
	rotations    []api.Rotation
	live         map[string]api.Live
}

func (i *inventory) Certificates(context.Context, url.Values) (api.List[api.Certificate], error) {
	return api.List[api.Certificate]{Items: i.certificates}, nil
}

func (i *inventory) Certificate(_ context.Context, name string) (api.Certificate, error) {
	for _, c := range i.certificates {
		if c.Name == name {
			return c, nil
		}
	}
	return api.Certificate{}, activities.Errorf(activities.NotFound, "certificate %q is not there", name)
}

func (i *inventory) Live(_ context.Context, name, _ string) (api.Live, error) {
	if live, ok := i.live[name]; ok {
		return live, nil
	}
	return api.Live{}, activities.Errorf(activities.NotFound, "nothing is running")
}

func (i *inventory) Rotations(_ context.Context, query url.Values) (api.List[api.Rotation], error) {
	var list api.List[api.Rotation]
	for _, r := range i.rotations {
		if query.Get("open") != "true" || r.Ended.IsZero() {
			list.Items = append(list.Items, r)
		}
	}
	return list, nil
}

func (i *inventory) Rotation(_ context.Context, id string) (api.Rotation, error) {
	for _, r := range i.rotations {
		if string(r.ID) == id {
			return r, nil
		}
	}
	return api.Rotation{}, activities.Errorf(activities.NotFound, "rotation %q is not there", id)
}

// ledger keeps what was recorded, or refuses to.
type ledger struct {
	mu      sync.Mutex
	entries []record.Entry
	down    bool
}

func (l *ledger) Append(_ context.Context, entry record.Entry) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return "", errors.New("disk full")
	}
	l.entries = append(l.entries, entry)
	return "id", nil
}

// house is a site with everything around it.
type house struct {
	t         *testing.T
	site      *web.Site
	handler   http.Handler
	clock     *clock
	inventory *inventory
	ledger    *ledger
	codec     *codec.Codec
	users     string
	log       *bytes.Buffer
	cookie    *http.Cookie
}

func open(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	ring, err := installation.OpenKeyring(filepath.Join(dir, "codec.keyring"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := codec.New(ring, "default")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{
		t: t, clock: &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, inventory: &inventory{live: map[string]api.Live{}},
		ledger: &ledger{}, codec: sealed, users: filepath.Join(dir, "users.json"), log: &bytes.Buffer{},
	}
	h.start()
	return h
}

// start opens the site as a start of the process does: sessions are gone, users stay.
func (h *house) start() {
	h.t.Helper()
	var err error
	h.site, err = web.New(web.Parts{
		Address: address, Namespace: "default", Users: h.users, API: h.inventory, Codec: h.codec, Recorder: h.ledger,
		Temporal: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "Temporal's page") }),
		Now:      h.clock.Now, Logger: slog.New(slog.NewTextHandler(h.log, nil)), Cost: bcrypt.MinCost,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.handler = h.site.Handler()
}

// send sends a request as a browser with the house's cookie would; header pairs override.
func (h *house) send(method, path string, form url.Values, header ...string) *http.Response {
	h.t.Helper()
	request := httptest.NewRequestWithContext(h.t.Context(), method, origin+path, strings.NewReader(form.Encode()))
	request.Host = address
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", origin)
	}
	if h.cookie != nil {
		request.AddCookie(h.cookie)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			request.Host = header[i+1]
		}
		request.Header.Set(header[i], header[i+1])
	}
	recorder := httptest.NewRecorder()
	h.handler.ServeHTTP(recorder, request)
	response := recorder.Result()
	for _, cookie := range response.Cookies() {
		h.cookie = cookie
		if cookie.MaxAge < 0 {
			h.cookie = nil
		}
	}
	return response
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func (h *house) want(what string, r *http.Response, status int) {
	h.t.Helper()
	if r.StatusCode != status {
		h.t.Fatalf("%s: got %s, want %d\n%s", what, r.Status, status, text(h.t, r))
	}
}

// token returns the setup token out of the printed link.
func (h *house) token() string {
	h.t.Helper()
	link, err := url.Parse(h.site.Setup())
	if err != nil || link.Path != "/setup" || link.Host != address {
		h.t.Fatalf("setup link: got %v, %v", link, err)
	}
	return link.Query().Get("token")
}

func setup(token, name, password string) url.Values {
	return url.Values{"token": {token}, "user": {name}, "password": {password}, "repeat": {password}}
}

// settle makes the first user, who is signed in afterwards.
func (h *house) settle() {
	h.t.Helper()
	h.want("setup", h.send("POST", "/setup", setup(h.token(), "ada", password)), http.StatusSeeOther)
	if h.cookie == nil {
		h.t.Fatal("setup did not sign in")
	}
}

func credentials(name, password string) url.Values {
	return url.Values{"user": {name}, "password": {password}}
}

func TestNothingIsShownWithoutSession(t *testing.T) {
	h := open(t)
	for path, want := range map[string]string{
		"/":                        "/login?next=%2F",
		"/certificates/payments":   "/login?next=%2Fcertificates%2Fpayments",
		"/rotations/payments@1":    "/login?next=%2Frotations%2Fpayments%401",
		"/temporal":                "/login?next=%2Ftemporal",
		"/temporal/namespaces?a=b": "/login?next=%2Ftemporal%2Fnamespaces%3Fa%3Db",
		"/anything":                "/login?next=%2Fanything",
		"/codec/decode":            "/login?next=%2Fcodec%2Fdecode",
	} {
		got := h.send("GET", path, nil)
		if got.StatusCode != http.StatusSeeOther || got.Header.Get("Location") != want {
			t.Errorf("GET %s: got %s to %q, want a redirect to %q", path, got.Status, got.Header.Get("Location"), want)
		}
	}
	for name, got := range map[string]*http.Response{
		"decoding":         h.send("POST", "/codec/decode", nil, "Content-Type", "application/json"),
		"a script's fetch": h.send("GET", "/temporal/api/v1/settings", nil, "Sec-Fetch-Mode", "cors"),
		"a foreign cookie": h.send("GET", "/", nil, "Sec-Fetch-Mode", "cors", "Cookie", "castellan-8233=AAAA"),
	} {
		if got.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: got %s, want 401", name, got.Status)
		}
	}
	h.settle() // the control: the same paths answer with a session
	for path, want := range map[string]int{"/": 200, "/temporal": 200, "/temporal/namespaces?a=b": 200, "/anything": 404, "/certificates/payments": 404} {
		if got := h.send("GET", path, nil); got.StatusCode != want {
			t.Errorf("GET %s with a session: got %s, want %d", path, got.Status, want)
		}
	}
}

func TestOnlyItsOwnHostIsAnswered(t *testing.T) {
	h := open(t)
	h.settle()
	for host, want := range map[string]int{
		address: 200, "localhost:8233": 200, "LOCALHOST:8233": 200,
		"evil.example:8233": 421, "127.0.0.1": 421, "127.0.0.1:80": 421, "": 421, "localhost.evil.example:8233": 421,
	} {
		for _, path := range []string{"/", "/login", "/temporal/", "/static/style.css"} {
			got := h.send("GET", path, nil, "Host", host)
			if path == "/login" && want == 200 {
				want = http.StatusSeeOther // signed in already
			}
			if got.StatusCode != want {
				t.Errorf("host %q, %s: got %s, want %d", host, path, got.Status, want)
			}
			if want == http.StatusSeeOther {
				want = 200
			}
		}
	}
}

func TestOtherOriginsCannotPost(t *testing.T) {
	h := open(t)
	token := h.token()
	for name, header := range map[string][]string{
		"another origin":            {"Origin", "http://evil.example"},
		"another port of loopback":  {"Origin", "http://127.0.0.1:9999"},
		"no origin":                 {"Origin", "null"},
		"another site, by its mark": {"Sec-Fetch-Site", "cross-site"},
		"the same site, other port": {"Sec-Fetch-Site", "same-site"},
	} {
		for path, form := range map[string]url.Values{"/setup": setup(token, "eve", password), "/login": credentials("ada", password), "/logout": nil} {
			if got := h.send("POST", path, form, header...); got.StatusCode != http.StatusForbidden {
				t.Errorf("POST %s from %s: got %s, want 403", path, name, got.Status)
			}
		}
	}
	h.want("setup from the page itself", h.send("POST", "/setup", setup(token, "ada", password), "Sec-Fetch-Site", "same-origin"), http.StatusSeeOther)
}

func TestSetupTokenWorksOnce(t *testing.T) {
	h := open(t)
	if got := h.send("GET", "/setup?token=wrong", nil); got.StatusCode != http.StatusForbidden {
		t.Errorf("wrong token: got %s, want 403", got.Status)
	}
	first := h.token()
	if got := h.site.Setup(); got != "" {
		t.Error("the token is told a second time")
	}
	h.start() // nobody was made: another start makes another token
	token := h.token()
	if first == token {
		t.Error("a start did not make another token")
	}
	h.want("token of the start before", h.send("POST", "/setup", setup(first, "ada", password)), http.StatusForbidden)
	for name, form := range map[string]url.Values{
		"short password":            setup(token, "ada", "short"),
		"too long a password":       setup(token, "ada", strings.Repeat("x", 73)),
		"a name with a space":       setup(token, "ada lovelace", password),
		"a repetition that differs": {"token": {token}, "user": {"ada"}, "password": {password}, "repeat": {password + "!"}},
	} {
		if got := h.send("POST", "/setup", form); got.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: got %s, want 422", name, got.Status)
		}
	}
	h.want("look at the form", h.send("GET", "/setup?token="+token, nil), http.StatusOK)
	h.want("setup", h.send("POST", "/setup", setup(token, "ada", password)), http.StatusSeeOther)
	h.want("look again", h.send("GET", "/setup?token="+token, nil), http.StatusForbidden)
	h.want("setup again", h.send("POST", "/setup", setup(token, "eve", password)), http.StatusForbidden)
	h.want("setup without token", h.send("POST", "/setup", setup("", "eve", password)), http.StatusForbidden)
	h.start()
	if got := h.site.Setup(); got != "" {
		t.Error("a start with a user made a token")
	}
	h.want("setup without token after a start", h.send("POST", "/setup", setup("", "eve", password)), http.StatusForbidden)
	h.want("login after a start", h.send("POST", "/login", credentials("ada", password)), http.StatusSeeOther)
}

func TestOneOfManySetupsAtOnceWins(t *testing.T) {
	h := open(t)
	token := h.token()
	var made, group = make(chan string, 20), sync.WaitGroup{}
	for i := range 20 {
		group.Go(func() {
			name := "user" + string(rune('a'+i))
			request := httptest.NewRequest("POST", origin+"/setup", strings.NewReader(setup(token, name, password).Encode()))
			request.Host = address
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			request.Header.Set("Origin", origin)
			recorder := httptest.NewRecorder()
			h.handler.ServeHTTP(recorder, request)
			if recorder.Code == http.StatusSeeOther {
				made <- name
			}
		})
	}
	group.Wait()
	if len(made) != 1 {
		t.Errorf("got %d users, want 1", len(made))
	}
}

func TestWhatIsKeptTellsNoSecret(t *testing.T) {
	h := open(t)
	token := h.token()
	h.want("setup", h.send("POST", "/setup", setup(token, "ada", password)), http.StatusSeeOther)
	h.send("POST", "/login", credentials(password, password)) // a password typed into the wrong field
	kept, err := os.ReadFile(h.users)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(h.users)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("users file: got mode %v, %v; want 600", info.Mode().Perm(), err)
	}
	for name, place := range map[string]string{"users file": string(kept), "log": h.log.String()} {
		for what, secret := range map[string]string{"password": password, "setup token": token, "session": h.cookie.Value} {
			if strings.Contains(place, secret) {
				t.Errorf("%s holds the %s", name, what)
			}
		}
	}
	if !strings.Contains(string(kept), "ada") || !strings.Contains(h.log.String(), "first user made") {
		t.Error("the search looked in the wrong places") // the control
	}
	if err := os.Chmod(h.users, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := web.New(web.Parts{Address: address, Users: h.users, Now: h.clock.Now, Cost: bcrypt.MinCost}); err == nil {
		t.Error("a users file that others may read was taken")
	}
}

func TestSessionEnds(t *testing.T) {
	h := open(t)
	h.settle()
	if c := h.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || len(c.Value) < 43 {
		t.Errorf("cookie: got %v, want HttpOnly, SameSite=Strict and 256 bits", c)
	}
	h.clock.pass(8*time.Hour - time.Second)
	h.want("just before eight hours", h.send("GET", "/", nil), http.StatusOK)
	h.clock.pass(time.Second)
	h.want("after eight hours", h.send("GET", "/", nil), http.StatusSeeOther)

	h.want("login", h.send("POST", "/login", credentials("ada", password)), http.StatusSeeOther)
	before := h.cookie
	h.want("login over a session", h.send("POST", "/login", credentials("ada", password)), http.StatusSeeOther)
	after := h.cookie
	h.cookie = before
	h.want("the session before", h.send("GET", "/", nil), http.StatusSeeOther)
	h.cookie = after
	h.want("the session after", h.send("GET", "/", nil), http.StatusOK)
	h.want("logout", h.send("POST", "/logout", nil), http.StatusSeeOther)
	h.cookie = after
	h.want("a kept cookie after logout", h.send("GET", "/", nil), http.StatusSeeOther)

	h.want("login", h.send("POST", "/login", credentials("ada", password)), http.StatusSeeOther)
	h.start()
	h.want("after a restart", h.send("GET", "/", nil), http.StatusSeeOther)
}

func TestGuessingIsSlowedDown(t *testing.T) {
	h := open(t)
	h.settle()
	h.cookie = nil
	looked := 0
	for range 200 {
		if h.send("POST", "/login", credentials("ada", "wrong")).StatusCode == http.StatusUnauthorized {
			looked++
		}
	}
	if looked != 5 {
		t.Errorf("guesses that were looked at in one moment: got %d, want 5", looked)
	}
	refused := h.send("POST", "/login", credentials("ada", password))
	if refused.StatusCode != http.StatusTooManyRequests || refused.Header.Get("Retry-After") == "" {
		t.Errorf("the right password while guessing: got %s, want 429 and when to come again", refused.Status)
	}
	for range 24 * 3600 {
		h.clock.pass(time.Second)
		if h.send("POST", "/login", credentials("ada", "wrong")).StatusCode == http.StatusUnauthorized {
			looked++
		}
	}
	if looked > 320 { // one in five minutes, and the first few
		t.Errorf("guesses looked at in a day: got %d, want no more than 320", looked)
	}
	h.want("another name meanwhile", h.send("POST", "/login", credentials("grace", "wrong")), http.StatusUnauthorized)
	h.clock.pass(5 * time.Minute)
	h.want("the right password after the wait", h.send("POST", "/login", credentials("ada", password)), http.StatusSeeOther)
	h.cookie = nil
	h.want("a slip after success", h.send("POST", "/login", credentials("ada", "wrong")), http.StatusUnauthorized)
	h.want("and the right one at once", h.send("POST", "/login", credentials("ada", password)), http.StatusSeeOther)
}

func TestLoginGoesOnToThisOriginOnly(t *testing.T) {
	h := open(t)
	h.settle()
	for next, want := range map[string]string{
		"/rotations/payments@1": "/rotations/payments@1", "/temporal/a?b=c": "/temporal/a?b=c", "": "/",
		"//evil.example": "/", "https://evil.example/": "/", `/\evil.example`: "/", "/\t/evil.example": "/", "javascript:alert(1)": "/", "evil": "/",
	} {
		form := credentials("ada", password)
		form.Set("next", next)
		if got := h.send("POST", "/login", form).Header.Get("Location"); got != want {
			t.Errorf("next %q: got %q, want %q", next, got, want)
		}
	}
}

func TestPagesAllowNothingForeign(t *testing.T) {
	h := open(t)
	h.settle()
	for _, path := range []string{"/", "/login?next=/", "/missing", "/static/style.css"} {
		header := h.send("GET", path, nil).Header
		policy := header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: policy %q lacks %q", path, policy, want)
			}
		}
		if strings.Contains(policy, "unsafe") || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: got headers %v", path, header)
		}
	}
	if got := h.send("GET", "/static/overview.html", nil); got.StatusCode != http.StatusNotFound {
		t.Errorf("a template is served: %s", got.Status)
	}
	for _, file := range []string{"refresh.js", "style.css", "icon.svg"} {
		if got := h.send("GET", "/static/"+file, nil); got.StatusCode != http.StatusOK {
			t.Errorf("%s: got %s", file, got.Status)
		}
	}
}

func TestAddressMustBeLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:8233", "192.0.2.1:8233", ":8233", "example.com:8233"} {
		if _, err := web.New(web.Parts{Address: address, Users: filepath.Join(t.TempDir(), "users"), Now: time.Now, Cost: bcrypt.MinCost}); err == nil {
			t.Errorf("%s was taken", address)
		}
	}
}

func TestOverview(t *testing.T) {
	h := open(t)
	h.settle()
	now := h.clock.Now()
	missing := activities.Straggler{Consumer: "edge", Address: "10.0.0.7:443", Standing: activities.UsesPrevious, Serves: "feedfacefeedfacefeedface", Since: now.Add(-90 * time.Second)}
	h.inventory.certificates = []api.Certificate{
		{Name: "payments", State: activities.Retired, NotBefore: now.Add(-90 * 24 * time.Hour), NotAfter: now.Add(-time.Hour), DueAt: now.Add(-48 * time.Hour)},
		{Name: "<b>orders</b>", NotBefore: now, NotAfter: now.Add(24 * time.Hour), DueAt: now.Add(16 * time.Hour)},
		{Name: "window", DueAt: now.Add(-time.Minute)},
	}
	h.inventory.rotations = []api.Rotation{
		{ID: "payments@2", Target: "payments", State: activities.Published, Workflow: "rotate/payments", Run: "run-2", Started: now.Add(-3 * time.Minute)},
		{ID: "payments@1", Target: "payments", State: activities.RolledBack, Started: now.Add(-time.Hour), Ended: now.Add(-time.Hour), Sentence: "previous restored and verified"},
	}
	h.inventory.live["payments"] = api.Live{Status: "running", State: rotation.State{
		State: activities.Published, Waiting: "1 consumer address to use the candidate", WaitSince: now.Add(-2 * time.Minute),
		WaitUntil: now.Add(10 * time.Minute), Stragglers: []activities.Straggler{missing},
	}}
	h.inventory.live["window"] = api.Live{Status: "running", State: rotation.State{Waiting: "its maintenance window", WaitUntil: now.Add(3 * time.Hour)}}
	got := text(t, h.send("GET", "/", nil))
	for _, want := range []string{
		`href="/rotations/payments@2"`, `href="/temporal/namespaces/default/workflows/rotate%2Fpayments/run-2"`,
		"Waiting for 1 consumer address to use the candidate", "2 min ago", "in 10 min", "10.0.0.7:443", "feedfacefeedface…", "1 min 30 s ago",
		"previous restored and verified", "rolled back", "its maintenance window", "in 3 h",
		`<td class="warn"><time datetime="2026-02-27T12:00:00Z"`, `<td class="bad">`, "&lt;b&gt;orders&lt;/b&gt;",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("overview lacks %q", want)
		}
	}
	if strings.Contains(got, "<b>orders") {
		t.Error("a name is not escaped")
	}
	if t.Failed() {
		t.Log(got)
	}
	detail := text(t, h.send("GET", "/rotations/payments@2", nil))
	for _, want := range []string{"10.0.0.7:443", "Waiting for", `class="here">published`} {
		if !strings.Contains(detail, want) {
			t.Errorf("rotation page lacks %q:\n%s", want, detail)
		}
	}
	if got := h.send("GET", "/rotations/payments@9", nil); got.StatusCode != http.StatusNotFound {
		t.Errorf("a rotation that is not: got %s", got.Status)
	}
}

func TestDecodingIsRecorded(t *testing.T) {
	h := open(t)
	h.settle()
	sealed, err := codec.NewDataConverter(h.codec).ToPayloads("the argument")
	if err != nil {
		t.Fatal(err)
	}
	body, err := protojson.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	decode := func() *httptest.ResponseRecorder {
		request := httptest.NewRequestWithContext(t.Context(), "POST", origin+"/codec/decode", bytes.NewReader(body))
		request.Host = address
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Origin", origin)
		request.Header.Set("Referer", origin+"/temporal/namespaces/default/workflows/rotate%2Fpayments/run/history")
		request.AddCookie(h.cookie)
		recorder := httptest.NewRecorder()
		h.handler.ServeHTTP(recorder, request)
		return recorder
	}
	answer := decode()
	var opened commonpb.Payloads
	if err := protojson.Unmarshal(answer.Body.Bytes(), &opened); err != nil {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	var argument string
	if err := converter.GetDefaultDataConverter().FromPayloads(&opened, &argument); err != nil || argument != "the argument" {
		t.Errorf("got %q, %v", argument, err)
	}
	decode()
	if len(h.ledger.entries) != 2 {
		t.Fatalf("got %d records, want 2", len(h.ledger.entries))
	}
	entry := h.ledger.entries[0]
	if entry.Actor != "ada" || entry.Phase != record.Fact || entry.Facts["payloads"] != "1" || !strings.Contains(entry.Facts["page"], "rotate/payments") {
		t.Errorf("got %+v", entry)
	}
	if entry.Step == h.ledger.entries[1].Step {
		t.Error("two decodings have one name: the ledger would keep one of them")
	}
	if kept, _ := json.Marshal(entry); strings.Contains(string(kept)+h.log.String(), "the argument") {
		t.Error("what was opened is in the record or the log")
	}
	h.ledger.down = true
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("payloads were shown without a record of it")
		}
	}()
	t.Errorf("got an answer: %s", decode().Body)
}
