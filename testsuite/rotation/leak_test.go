package rotation

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"castellan.dev/internal/api"
	"castellan.dev/testsuite/leak"
	"castellan.dev/workflows/rotation"
)

// secrets are the canaries of a run and the places where each is at home.
type secrets struct {
	canaries []leak.Canary
	homes    map[string][]string // by canary: files that may hold it
}

func (s *secrets) add(name, value, home string) {
	if s.homes == nil {
		s.homes = map[string][]string{}
	}
	for _, known := range s.canaries {
		if string(known.Value.Reveal()) == value {
			s.homes[known.Name] = append(s.homes[known.Name], home)
			return
		}
	}
	s.canaries = append(s.canaries, leak.New(name, value))
	s.homes[name] = append(s.homes[name], home)
}

// elsewhere drops hits in the secret's own file.
func (s *secrets) elsewhere(hits []leak.Hit) []leak.Hit {
	return slices.DeleteFunc(slices.Clone(hits), func(hit leak.Hit) bool {
		return slices.ContainsFunc(s.homes[hit.Canary], func(home string) bool {
			return hit.Source == home || strings.HasPrefix(hit.Source, home+" > ") || strings.HasPrefix(hit.Source, home+"/")
		})
	})
}

// keysIn makes a canary of every private key in the PEM files below a directory.
func (s *secrets) keysIn(t *testing.T, dir string) (found int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
			if !strings.Contains(block.Type, "PRIVATE KEY") {
				continue
			}
			relative, _ := filepath.Rel(dir, path)
			s.add("key in "+relative+" #"+strconv.Itoa(len(s.canaries)), string(pem.EncodeToMemory(block)), path)
			found++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// delivered takes the private keys that a target's delivery holds now. A delivery is a home: its served
// generations, and the previous one beside them.
func (s *secrets) delivered(t *testing.T, c *certificate) {
	t.Helper()
	before := len(s.canaries)
	s.keysIn(t, c.served)
	s.keysIn(t, c.memory)
	for _, canary := range s.canaries[before:] {
		s.homes[canary.Name] = []string{c.served, c.memory}
	}
}

// installed takes castellan's own secrets.
func (s *secrets) installed(t *testing.T, h *house) {
	t.Helper()
	for _, dir := range []string{h.state.CA(), h.state.Identity()} {
		if s.keysIn(t, dir) == 0 {
			t.Fatalf("no private key below %s", dir)
		}
	}
	for name, path := range map[string]string{
		"provisioner password": h.endpoints.CA.PasswordFile, "ledger key": h.state.LedgerKey(),
		"store keyring": h.state.StoreKeys(), "codec keyring": h.state.CodecKeys(),
	} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var ring struct {
			Keys []struct{ Key string }
		}
		switch {
		case json.Unmarshal(content, &ring) == nil && len(ring.Keys) > 0:
			for i, key := range ring.Keys {
				s.add(name+" key "+strconv.Itoa(i), key.Key, path)
			}
		default:
			s.add(name, string(bytes.TrimSpace(content)), path)
		}
	}
	for _, canary := range s.canaries {
		if canary.Value.Len() < 16 {
			t.Fatalf("canary %q is too short: its file was not understood", canary.Name)
		}
	}
}

// TestNothingLeaks rotates, fails, revokes and is told things, and then searches every place that a run
// leaves behind for every secret that took part.
func TestNothingLeaks(t *testing.T) {
	h := newHouse(t)
	for name, fields := range map[string][]string{
		"payments": {"key: ecdsa-p256"}, "orders": {"key: rsa-2048"}, "broken": {"canaryGrace: 1s", "key: ed25519"}, "told": nil, "spilled": {"policy: windowed"},
	} {
		h.serve(t, name, fields...)
	}
	h.open(t, 0)
	var s secrets
	for _, c := range h.certificates {
		h.fresh(t, c.name)
		s.delivered(t, c)
	}
	s.installed(t, h)
	exercise(t, h, &s)
	t.Logf("%d canaries", len(s.canaries))

	places := append(h.spoken(t), leak.Dir(h.dir), leak.Process(os.Getpid()))
	report(t, &s, places)

	// The control: an operator pastes a key into a plain signal, and a line of the log holds another.
	// Each must be found where it went, or the search above means nothing.
	pasted, logged := s.canaries[0], s.canaries[1]
	run := h.waiting(t, "spilled", h.scheduled(t, "spilled"))
	text := string(pasted.Value.Reveal())
	if err := h.plain.SignalWorkflow(t.Context(), rotation.WorkflowID("spilled"), run, rotation.Pause, rotation.Request{Reason: text}); err != nil {
		t.Fatal(err)
	}
	h.until(t, "spilled", run, "the pause", func(l api.Live) bool { return l.Paused != nil })
	fmt.Fprintf(h.log, "a careless line: %q\n", logged.Value.Reveal())
	hits, err := leak.Search(s.canaries, append(h.spoken(t), leak.Dir(h.dir))...)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, hit := range s.elsewhere(hits) {
		found[hit.Canary+" in "+strings.SplitN(hit.Source, " > ", 2)[0]] = true
	}
	for what, want := range map[string]string{
		"the history as it is stored":    pasted.Name + " in stored histories",
		"the history as the keys show":   pasted.Name + " in opened histories",
		"the interface":                  pasted.Name + " in the interface",
		"the log":                        logged.Name + " in the log",
		"the engine's file or its log's": pasted.Name + " in " + h.state.Engine(),
	} {
		if !slices.ContainsFunc(keys(found), func(got string) bool { return strings.HasPrefix(got, want) }) {
			t.Errorf("a leak into %s was not found; found %q", what, keys(found))
		}
	}

	// What is written at the end is searched, too.
	h.stop()
	hits, err = leak.Search(s.canaries[2:], leak.Dir(h.dir), leak.String("the log", h.log.String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, hit := range s.elsewhere(hits) {
		t.Errorf("after the end: %s", hit)
	}
}

func keys(set map[string]bool) []string {
	var list []string
	for key := range set {
		list = append(list, key)
	}
	slices.Sort(list)
	return list
}

func report(t *testing.T, s *secrets, places []leak.Source) {
	t.Helper()
	hits, err := leak.Search(s.canaries, places...)
	if err != nil {
		t.Fatal(err)
	}
	for _, hit := range s.elsewhere(hits) {
		t.Error(hit)
	}
	if len(s.elsewhere(hits)) == len(hits) {
		t.Error("no secret was found at home either: the search does not see what it should")
	}
}

// exercise makes a run say as much as it can: a success, a rollback, a revocation, refusals.
func exercise(t *testing.T, h *house, s *secrets) {
	t.Helper()
	h.fresh(t, "payments")
	s.delivered(t, h.certificates["payments"])
	broken := h.certificates["broken"]
	broken.server.become(breaks)
	failing := h.rotate(t, "broken", api.RotateRequest{})
	h.until(t, "broken", failing, "publication", func(l api.Live) bool { return l.Placed })
	s.delivered(t, broken)
	h.end(t, "broken", failing, "ROLLED_BACK")
	h.end(t, "orders", h.rotate(t, "orders", api.RotateRequest{Compromise: true, Reason: "key seen in a ticket"}), "RETIRED")
	s.delivered(t, h.certificates["orders"])
	if _, err := h.api.Tell(t.Context(), "payments", rotation.Pause, ""); err == nil {
		t.Error("a rotation that is over was paused")
	}
	h.end(t, "told", h.rotate(t, "told", api.RotateRequest{Until: "TESTED"}), "TESTED")
	conn, err := tls.Dial("tcp", broken.server.address(), &tls.Config{ServerName: "localhost"})
	if err == nil {
		conn.Close()
		t.Error("a client without the root accepted the server")
	}
}

// spoken is what castellan tells: histories as stored and as its keys show them, visibility, schedules,
// the interface, the evidence, the log.
func (h *house) spoken(t *testing.T) []leak.Source {
	t.Helper()
	var stored, opened, listed, answered bytes.Buffer
	opener := h.codec(t)
	decode := proxy.VisitPayloadsOptions{Visitor: func(_ *proxy.VisitPayloadsContext, payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
		out := slices.Clone(payloads)
		for i, payload := range payloads {
			if plain, err := opener.Decode([]*commonpb.Payload{payload}); err == nil {
				out[i] = plain[0]
			}
		}
		return out, nil
	}}
	runs := 0
	for page := []byte(nil); ; {
		list, err := h.plain.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{NextPageToken: page})
		if err != nil {
			t.Fatal(err)
		}
		write(t, &listed, list)
		for _, info := range list.GetExecutions() {
			runs++
			id, run := info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()
			described, err := h.plain.DescribeWorkflowExecution(t.Context(), id, run)
			if err != nil {
				t.Fatal(err)
			}
			write(t, &listed, described)
			events := h.events(t, id, run)
			write(t, &stored, events)
			if err := proxy.VisitPayloads(t.Context(), events, decode); err != nil {
				t.Fatal(err)
			}
			write(t, &opened, events)
		}
		if page = list.GetNextPageToken(); len(page) == 0 {
			break
		}
	}
	if runs == 0 || !strings.Contains(opened.String(), `"fingerprint"`) && !strings.Contains(opened.String(), "ZmluZ2VycHJpbnQ") {
		t.Fatalf("%d histories were opened, and none speaks of a fingerprint", runs)
	}
	plan, err := h.api.ScheduleDiff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	note(t, &answered, plan)
	h.answers(t, &answered)
	return []leak.Source{
		leak.Bytes("stored histories", stored.Bytes()), leak.Bytes("opened histories", opened.Bytes()),
		leak.Bytes("visibility", listed.Bytes()), leak.Bytes("the interface", answered.Bytes()),
		leak.Bytes("the evidence", h.evidence(t)), leak.String("the log", h.log.String()),
	}
}

func (h *house) events(t *testing.T, id, run string) *historypb.History {
	t.Helper()
	var all historypb.History
	request := &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: h.endpoints.Namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: run},
	}
	for {
		page, err := h.plain.WorkflowService().GetWorkflowExecutionHistory(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		all.Events = append(all.Events, page.GetHistory().GetEvents()...)
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return &all
		}
	}
}

// answers collects what the interface says.
func (h *house) answers(t *testing.T, into *bytes.Buffer) {
	t.Helper()
	certificates, err := h.api.Certificates(t.Context(), url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	note(t, into, certificates)
	rotations, err := h.api.Rotations(t.Context(), url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	note(t, into, rotations)
	for _, item := range certificates.Items {
		live, err := h.api.Live(t.Context(), item.Name, "")
		if err != nil {
			t.Fatal(err)
		}
		note(t, into, live)
	}
	_, err = h.api.Rotate(t.Context(), "nobody", api.RotateRequest{})
	if err == nil {
		t.Fatal("an unknown certificate was rotated")
	}
	into.WriteString(err.Error())
}

func (h *house) evidence(t *testing.T) []byte {
	t.Helper()
	export, err := h.api.Evidence(t.Context(), url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	defer export.Close()
	content, err := io.ReadAll(export)
	if err != nil || len(content) == 0 {
		t.Fatalf("evidence: got %d bytes, %v", len(content), err)
	}
	return content
}

func write(t *testing.T, into *bytes.Buffer, message proto.Message) {
	t.Helper()
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	into.Write(append(text, '\n'))
}

func note(t *testing.T, into *bytes.Buffer, answer any) {
	t.Helper()
	text, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	into.Write(append(text, '\n'))
}
