package rotation

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/demo"
	"castellan.dev/schedules"
	"castellan.dev/workflows/rotation"
)

// TestRotation runs everything on one castellan-dev: its start is the expensive part.
func TestRotation(t *testing.T) {
	h := newHouse(t)
	for name, fields := range map[string][]string{
		"cost": nil, "staged": nil,
		"late": {"canaryGrace: 1s"}, "aborted": {"canaryGrace: 1s"}, "broken": {"canaryGrace: 1s"}, // how soon stragglers are shown, too
		"window": {"policy: windowed"}, "operator": {"policy: windowed"}, "public": {"policy: windowed"}, "plain": {"policy: windowed"},
		"east": {"policy: exclusive", "canaryGrace: 1s"}, "west": {"policy: exclusive", "canaryGrace: 1s"},
	} {
		h.serve(t, name, fields...)
	}
	peer := h.peer(t)
	before := listening(t)
	h.open(t, 0)

	t.Run("the schedule's sweep rotates what is due", func(t *testing.T) { h.sweepAll(t) })
	t.Run("beside each other", func(t *testing.T) {
		for sentence, test := range map[string]func(*testing.T, *house){
			"a rotation without stragglers is cheap":               testCost,
			"a straggler is named, waited for, and costs":          testStragglerCost,
			"until tested stops before publishing":                 testUntilTested,
			"a canary that breaks is rolled back":                  testRollback,
			"abort rolls a published candidate back":               testAbort,
			"a window is waited for, skipped, or given up":         testWindow,
			"the public command line steers a rotation":            testPublicTool,
			"plain JSON from an SDK steers a rotation":             testPlainMessages,
			"a compromised certificate is proven dead":             func(t *testing.T, h *house) { testCompromise(t, h, peer) },
			"a peer that cannot be asked is named as not provable": testNotProvable,
			"every port but the public ones refuses strangers":     func(t *testing.T, h *house) { testPorts(t, h, before) },
		} {
			t.Run(sentence, func(t *testing.T) {
				t.Parallel()
				test(t, h)
			})
		}
	})
	t.Run("members of an exclusion group never rotate at the same time", func(t *testing.T) { testExclusion(t, h) })
}

// peer declares a client certificate, the service that demands it and checks the issuer's revocation
// list, and a copy of that client whose peer cannot be asked.
func (h *house) peer(t *testing.T) *demo.Service {
	t.Helper()
	front := h.serve(t, "front") // a second server of the same certificate asks for no client, so castellan can look
	service, err := demo.NewService(demo.ServiceConfig{
		Name: "front", Listen: "127.0.0.1:0", Pair: front.served + "/current", Clients: true,
		CRL: fmt.Sprintf("https://127.0.0.1:%d/1.0/crl", h.caPort), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	go service.Run(t.Context())
	for name, peer := range map[string]string{
		"caller": fmt.Sprintf(`peers: [{name: front, kind: tls, addresses: ["%s"], serverName: localhost}]`, service.Address()),
		"unseen": `peers: [{name: elsewhere, kind: none}]`,
	} {
		c := h.place(t, name, "usage: client", peer)
		fmt.Fprintf(&h.config, `    consumers:
      - name: %[1]s
        kind: tls
        mode: client
        addresses: ["%[2]s"]
        serverName: localhost
        presents: {certificateFile: %[3]s/current/tls.crt, keyFile: %[3]s/current/tls.key}
`, name, service.Address(), c.served)
	}
	return service
}

// sweepAll triggers the schedule: nothing exists yet, so everything is due.
func (h *house) sweepAll(t *testing.T) {
	h.sweep(t)
	for name, c := range h.certificates {
		var live api.Live
		live = h.end(t, name, "", activities.Retired)
		if live.Trigger.Source != "schedule" {
			t.Errorf("%s: trigger is %q, want the schedule", name, live.Trigger.Source)
		}
		if c.server == nil {
			continue
		}
		seen, err := shown(c.server.address())
		if err != nil || seen != live.Result.Fingerprint {
			t.Errorf("%s serves %s (%v), want %s", name, seen, err, live.Result.Fingerprint)
		}
	}
}

// sweep triggers the schedule once.
func (h *house) sweep(t *testing.T) {
	t.Helper()
	if err := h.engine.ScheduleClient().GetHandle(t.Context(), schedules.Prefix+schedules.Sweep).Trigger(t.Context(), client.ScheduleTriggerOptions{}); err != nil {
		t.Fatal(err)
	}
}

func testUntilTested(t *testing.T, h *house) {
	c := h.certificates["staged"]
	before, err := shown(c.server.address())
	if err != nil {
		t.Fatal(err)
	}
	staged := h.end(t, "staged", h.rotate(t, "staged", api.RotateRequest{Until: activities.Tested}), activities.Tested)
	if staged.Candidate.KeyID == "" || staged.Candidate.Fingerprint == "" {
		t.Fatalf("candidate: got %+v, want one with key and fingerprint", staged.Candidate)
	}
	if seen, err := shown(c.server.address()); err != nil || seen != before {
		t.Errorf("after %s the server shows %s (%v), want still %s", activities.Tested, seen, err, before)
	}
	done := h.fresh(t, "staged")
	if done.Candidate.KeyID != staged.Candidate.KeyID || done.Result.Fingerprint != staged.Candidate.Fingerprint || done.Result.Rotation != staged.Result.Rotation {
		t.Errorf("the next rotation: got %s with key %s and leaf %s, want %s going on with key %s and leaf %s",
			done.Result.Rotation, done.Candidate.KeyID, done.Result.Fingerprint, staged.Result.Rotation, staged.Candidate.KeyID, staged.Candidate.Fingerprint)
	}
	if seen, err := shown(c.server.address()); err != nil || seen != staged.Candidate.Fingerprint {
		t.Errorf("the server shows %s (%v), want the staged candidate %s", seen, err, staged.Candidate.Fingerprint)
	}
}

func testRollback(t *testing.T, h *house) {
	c := h.certificates["broken"]
	before, err := shown(c.server.address())
	if err != nil {
		t.Fatal(err)
	}
	c.server.become(breaks)
	live := h.end(t, "broken", h.rotate(t, "broken", api.RotateRequest{}), activities.RolledBack)
	if seen, err := shown(c.server.address()); err != nil || seen != before {
		t.Errorf("after the rollback the server shows %s (%v), want the previous %s", seen, err, before)
	}
	row, err := h.api.Certificate(t.Context(), "broken")
	if err != nil {
		t.Fatal(err)
	}
	if row.HeldUntil.IsZero() || row.Failures == 0 {
		t.Errorf("inventory: got held until %s after %d failures, want the target held back", row.HeldUntil, row.Failures)
	}
	c.server.become(reloads)
	after := h.fresh(t, "broken")
	if after.Result.Fingerprint == live.Candidate.Fingerprint {
		t.Errorf("the next rotation used the candidate %s that was rolled back", after.Result.Fingerprint)
	}
}

func testAbort(t *testing.T, h *house) {
	c := h.certificates["aborted"]
	before, err := shown(c.server.address())
	if err != nil {
		t.Fatal(err)
	}
	c.server.become(straggles)
	run := h.rotate(t, "aborted", api.RotateRequest{})
	h.until(t, "aborted", run, "a straggler", func(l api.Live) bool { return len(l.Stragglers) > 0 })
	if _, err := h.api.Tell(t.Context(), "aborted", rotation.Abort, "changed my mind"); err != nil {
		t.Fatal(err)
	}
	h.end(t, "aborted", run, activities.RolledBack)
	c.server.become(reloads)
	if seen, err := shown(c.server.address()); err != nil || seen != before {
		t.Errorf("after the abort the server shows %s (%v), want the previous %s", seen, err, before)
	}
}

func testCompromise(t *testing.T, h *house, service *demo.Service) {
	previous := h.certificates["caller"].pair(t)
	if err := present(service.Address(), previous); err != nil {
		t.Fatalf("before: the service refuses its client: %v", err)
	}
	live := h.end(t, "caller", h.rotate(t, "caller", api.RotateRequest{Compromise: true, Reason: "key seen in a ticket"}), activities.ProvenDead)
	if len(live.Result.NotProvable) > 0 {
		t.Errorf("not provable: got %q, want nothing", live.Result.NotProvable)
	}
	if !strings.Contains(live.Result.Sentence, "refuses the previous certificate") || strings.Contains(live.Result.Sentence, "unless revoked") {
		t.Errorf("sentence: got %q, want the refusal, and no doubt about the revocation", live.Result.Sentence)
	}
	if err := present(service.Address(), previous); err == nil {
		t.Error("the service still accepts the previous certificate")
	}
	if err := present(service.Address(), h.certificates["caller"].pair(t)); err != nil {
		t.Errorf("the service refuses the candidate: %v", err)
	}
}

// pair reads what is delivered now.
func (c *certificate) pair(t *testing.T) tls.Certificate {
	t.Helper()
	found, err := tls.LoadX509KeyPair(c.served+"/current/tls.crt", c.served+"/current/tls.key")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// present shows a client certificate and exchanges a request: a handshake alone proves nothing in TLS 1.3.
func present(address string, pair tls.Certificate) error {
	return ask(address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}, helloHTTP1)
}

func testNotProvable(t *testing.T, h *house) {
	live := h.end(t, "unseen", h.rotate(t, "unseen", api.RotateRequest{Compromise: true, Reason: "key seen in a ticket"}), activities.Retired)
	if len(live.Result.NotProvable) == 0 {
		t.Errorf("not provable: got nothing, want the peer that cannot be asked (%s)", live.Result.Sentence)
	}
}

// testExclusion lets the sweep find both members of a group due, and holds up whichever begins.
func testExclusion(t *testing.T, h *house) {
	for _, name := range []string{"east", "west"} {
		h.certificates[name].server.become(straggles)
	}
	runs := map[string]string{}
	for _, name := range []string{"east", "west"} {
		live, err := h.api.Live(t.Context(), name, "")
		if err != nil {
			t.Fatal(err)
		}
		runs[name] = live.Run
	}
	h.sweep(t)
	states := map[string]api.Live{}
	for _, name := range []string{"east", "west"} {
		states[name] = h.until(t, name, "", "a rotation of today, at its server or waiting", func(l api.Live) bool {
			return l.Run != runs[name] && (len(l.Stragglers) > 0 || l.Waiting == "window")
		})
	}
	first, second := "east", "west"
	if len(states[second].Stragglers) > 0 {
		first, second = second, first
	}
	if len(states[first].Stragglers) == 0 {
		t.Fatalf("got %+v and %+v, want one of them at work", states[first], states[second])
	}
	// The second asks again every second; each time it must be told to wait.
	events := len(history(t, h.engine, second, states[second].Run))
	eventually(t, second+" asking again", func() (string, bool) {
		now := len(history(t, h.engine, second, states[second].Run))
		return fmt.Sprint(now), now > events+10
	})
	waiting, err := h.api.Live(t.Context(), second, "")
	if err != nil {
		t.Fatal(err)
	}
	if waiting.Plan.Rotation != "" {
		t.Errorf("%s began rotation %s while %s had not ended", second, waiting.Plan.Rotation, states[first].Plan.Rotation)
	}
	for _, name := range []string{"east", "west"} {
		h.certificates[name].server.become(reloads)
	}
	rows := map[string]api.Rotation{}
	for _, name := range []string{first, second} {
		live := h.end(t, name, states[name].Run, activities.Retired)
		row, err := h.api.Rotation(t.Context(), string(live.Result.Rotation))
		if err != nil {
			t.Fatal(err)
		}
		rows[name] = row
	}
	if rows[second].Started.Before(rows[first].Ended) {
		t.Errorf("%s began at %s, before %s ended at %s", second, rows[second].Started, first, rows[first].Ended)
	}
}
