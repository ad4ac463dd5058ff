package rotation

import (
	"net/http"
	"testing"
	"time"

	"castellan.dev/internal/api"
	"castellan.dev/internal/identity"
)

// TestOwnIdentitiesRotateUnnoticed gives castellan's own certificates a life of seconds and asks its
// interface all the time, on a connection that stays and on fresh ones. Not one request fails, and a
// rotation works across renewals.
func TestOwnIdentitiesRotateUnnoticed(t *testing.T) {
	const life = 12 * time.Second
	h := newHouse(t)
	h.serve(t, "payments")
	h.open(t, life)
	fresh := api.NewClient(h.endpoints.API, &http.Client{Transport: &http.Transport{
		TLSClientConfig: h.operator.TLSClient(identity.Serve), DisableKeepAlives: true,
	}})
	run := h.rotate(t, "payments", api.RotateRequest{})
	requests, renewals := 0, 0
	last := h.operator.NotAfter()
	deadline := time.Now().Add(patience)
	for renewals < 2 && time.Now().Before(deadline) {
		for name, client := range map[string]*api.Client{"kept": h.api, "fresh": fresh} {
			if _, err := client.Certificate(t.Context(), "payments"); err != nil {
				t.Fatalf("request %d on a %s connection, %d renewals in: %v", requests, name, renewals, err)
			}
			requests++
		}
		if err := h.operator.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := h.operator.NotAfter(); now.After(last) {
			last = now
			renewals++
		}
		time.Sleep(10 * time.Millisecond)
	}
	if renewals < 2 {
		t.Fatalf("got %d renewals within %s, want two in lives of %s", renewals, patience, life)
	}
	h.end(t, "payments", run, "RETIRED")
	h.fresh(t, "payments")
	h.connect(t) // new connections to the engine, after every first certificate has expired
	if _, err := h.engine.CheckHealth(t.Context(), nil); err != nil {
		t.Errorf("fresh connection to the engine: %v", err)
	}
	t.Logf("%d requests across %d renewals, none failed", requests, renewals)
}
