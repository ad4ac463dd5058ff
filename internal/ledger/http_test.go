package ledger

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/servicedb"
)

// serveLedger serves the ledger as `castellan serve` does: TLS with client certificates of our own CA. It
// returns the address and a client for each identity.
func serveLedger(t *testing.T, l *Ledger) (url string, client func(name string) *http.Client) {
	t.Helper()
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	source := func(name string) *identity.Source {
		s, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: name, Renewer: authority.Renewer(name)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	server := httptest.NewUnstartedServer(l.Handler(func(r *http.Request) (string, error) { return identity.Peer(r.TLS) }))
	server.TLS = source("record").TLSServer()
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, func(name string) *http.Client {
		return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: source(name).TLSClient("record")}}
	}
}

func TestZonesSubmitOverMutualTLS(t *testing.T) {
	l := openLedger(t)
	url, client := serveLedger(t, l)
	zone := NewClient(url, client("privileged/web1"))
	receipt, err := zone.Submit(t.Context(), entry(0))
	if err != nil || receipt.Index != 1 || receipt.Repeated {
		t.Fatalf("got %+v (%v), want record 1", receipt, err)
	}
	again := entry(0)
	again.Facts["fingerprint"] = "other"
	if receipt, err = zone.Submit(t.Context(), again); err != nil || !receipt.Repeated || !receipt.Differs || receipt.Index != 1 {
		t.Errorf("got %+v (%v), want record 1 repeated and different", receipt, err)
	}
	r, err := NewClient(url, client("observe")).Record(t.Context(), receipt.ID)
	if err != nil || r.Submitter != "privileged/web1" || r.Entry.Actor != "privileged/web1" {
		t.Errorf("got %+v (%v), want the submitter that the certificate names", r, err)
	}
	var recorder record.Recorder = zone
	forged := entry(1)
	forged.Actor = "privileged/web2"
	_, err = recorder.Append(t.Context(), forged)
	wantKind(t, err, activities.Denied)
	forged.Actor, forged.Phase = "", "later"
	_, err = recorder.Append(t.Context(), forged)
	wantKind(t, err, activities.Invalid)
	_, err = zone.Record(t.Context(), "nothing")
	wantKind(t, err, activities.NotFound)

	stranger := &http.Client{Transport: client("privileged/web1").Transport.(*http.Transport).Clone()}
	stranger.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = nil
	_, err = NewClient(url, stranger).Submit(t.Context(), entry(1))
	wantKind(t, err, activities.Transient) // its certificate may be on its way
}

func TestHandlerReadsStrictly(t *testing.T) {
	l := openLedger(t)
	server := httptest.NewServer(l.Handler(func(r *http.Request) (string, error) { return r.Header.Get("Peer"), nil }))
	defer server.Close()
	good, err := json.Marshal(entry(0))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		peer, body string
		want       int
	}{
		"a good entry":      {"privileged", string(good), http.StatusOK},
		"no identity":       {"", string(good), http.StatusForbidden},
		"an unknown field":  {"privileged", strings.Replace(string(good), `{`, `{"x":"y",`, 1), http.StatusBadRequest},
		"a field twice":     {"privileged", strings.Replace(string(good), `{`, `{"workflow":"y",`, 1), http.StatusBadRequest},
		"two entries":       {"privileged", string(good) + string(good), http.StatusBadRequest},
		"invalid UTF-8":     {"privileged", strings.Replace(string(good), `2/3`, "\xff", 1), http.StatusBadRequest},
		"half a surrogate":  {"privileged", strings.Replace(string(good), `2/3`, `\ud800`, 1), http.StatusBadRequest},
		"a number as epoch": {"privileged", strings.Replace(string(good), `"epoch":"7"`, `"epoch":7`, 1), http.StatusBadRequest},
		"nothing":           {"privileged", "", http.StatusBadRequest},
		"too much":          {"privileged", strings.Replace(string(good), `2/3`, strings.Repeat("x", maxRequest), 1), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+Path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Peer", test.peer)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if text, _ := io.ReadAll(response.Body); response.StatusCode != test.want {
				t.Errorf("got %s %s, want %d", response.Status, text, test.want)
			}
		})
	}
	if head, err := l.Head(t.Context()); err != nil || head.Size != 2 {
		t.Errorf("got %d records (%v), want 2", head.Size, err)
	}
}

func TestClosedLedgerAsksZonesToComeBack(t *testing.T) {
	l := openLedger(t)
	url, client := serveLedger(t, l)
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := NewClient(url, client("privileged")).Submit(t.Context(), entry(0))
	wantKind(t, err, activities.Transient)
}

func TestEveryStatusHasAKind(t *testing.T) {
	for status := 100; status < 600; status++ {
		if status == http.StatusOK {
			continue
		}
		response := &http.Response{StatusCode: status, Status: fmt.Sprintf("%d", status), Header: http.Header{"Retry-After": {"7"}}}
		err := refused("submit evidence", response, []byte(`<html>`))
		want := activities.Transient
		switch {
		case status == 401, status == 403:
			want = activities.Denied
		case status == 404:
			want = activities.NotFound
		case status == 408, status == 421, status == 425:
			want = activities.Transient
		case status == 409:
			want = activities.Conflict
		case status == 429:
			want = activities.Throttled
		case status >= 400 && status < 500:
			want = activities.Invalid
		}
		wantKind(t, err, want)
	}
	response := &http.Response{StatusCode: 503, Status: "503", Header: http.Header{}}
	if err := refused("x", response, []byte(`{"kind":"uncertain","detail":"d"}`)); activities.KindOf(err) != activities.Uncertain {
		t.Errorf("got %v, want the kind that the ledger told", err)
	}
	if err := refused("x", response, []byte(`{"kind":"denied","detail":"d"}`)); activities.KindOf(err) != activities.Transient {
		t.Errorf("got %v, want the status believed rather than a kind that does not fit it", err)
	}
}

func TestAnswerAboutAnotherEntryIsNotBelieved(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"id":"other","index":"3"}`))
	}))
	defer server.Close()
	_, err := NewClient(server.URL, server.Client()).Submit(t.Context(), entry(0))
	wantKind(t, err, activities.Transient)
}

func TestProjectionOfTheServiceDatabaseFits(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	f.options.Project = servicedb.Project
	mustAppend(t, f.open(t), entry(0), entry(1))
	var rotations int
	if err := f.openDB(t).QueryRow(t.Context(), `SELECT COUNT(*) FROM rotations`).Scan(&rotations); err != nil || rotations != 1 {
		t.Errorf("got %d rotations (%v), want 1", rotations, err)
	}
}
