package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/workflows/rotation"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func printerAt(out *bytes.Buffer) *printer {
	return &printer{out: out, now: func() time.Time { return noon }}
}

func TestTimesAreRelativeAndAbsolute(t *testing.T) {
	p := printerAt(nil)
	for at, want := range map[time.Time]string{
		{}:                             "-",
		noon.Add(14 * time.Hour):       "in 14h (2026-03-02 02:00:00Z)",
		noon.Add(-90 * time.Second):    "1m ago (2026-03-01 11:58:30Z)",
		noon.Add(-40 * 24 * time.Hour): "40d ago (2026-01-20 12:00:00Z)",
		noon:                           "in 0s (2026-03-01 12:00:00Z)",
	} {
		if got := p.when(at); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTablesAreAlignedWhateverTheColours(t *testing.T) {
	rows := [][]cell{{{"payments", bold}, stateCell(activities.Retired)}, {{"ü", bold}, stateCell(activities.Quarantined)}}
	var plainly, coloured bytes.Buffer
	printerAt(&plainly).table([]string{"NAME", "STATE"}, rows)
	p := printerAt(&coloured)
	p.colour = true
	p.table([]string{"NAME", "STATE"}, rows)
	want := "NAME      STATE\npayments  RETIRED\nü         QUARANTINED\n"
	if diff := cmp.Diff(want, plainly.String()); diff != "" {
		t.Error(diff)
	}
	stripped := coloured.String()
	for _, s := range []style{bold, dim, red, green} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+string(s)+"m", "")
	}
	if diff := cmp.Diff(want, strings.ReplaceAll(stripped, "\x1b[0m", "")); diff != "" {
		t.Error(diff)
	}
	if stripped == coloured.String() {
		t.Error("nothing was coloured")
	}
}

func TestTextFromElsewhereCannotSteerTheTerminal(t *testing.T) {
	var out bytes.Buffer
	printerAt(&out).line(word("\x1b[2Jgone\x07"), word("\u202egnp.exe"))
	if strings.ContainsAny(out.String(), "\x1b\x07\u202e") {
		t.Errorf("got %q", out.String())
	}
}

// waiting is a rotation whose second wave has a straggler.
func waiting() api.Live {
	return api.Live{Status: "running", State: rotation.State{
		Target: "payments", State: activities.Published, Wave: 1, Placed: true,
		Plan:      activities.Plan{Rotation: "payments@3", Waves: []activities.Wave{{Consumers: []string{"a"}}, {Consumers: []string{"b"}}}},
		Candidate: activities.Candidate{Fingerprint: "00112233445566778899aabbccddeeff", NotAfter: noon.Add(time.Hour)},
		Waiting:   "consumers", WaitSince: noon.Add(-time.Minute), WaitUntil: noon.Add(time.Minute),
		Stragglers: []activities.Straggler{{Consumer: "b", Address: "10.0.0.1:443", Standing: activities.UsesPrevious, Serves: "ffeeddccbbaa99887766", Since: noon.Add(-time.Hour)}},
		Paused:     &rotation.Request{Actor: "operator", Reason: "freeze", At: noon.Add(-time.Second)},
	}}
}

func TestThePictureOfARotation(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{printer: printerAt(&out), target: "payments"}
	want := []string{
		"payments@3 PUBLISHED wave 2 of 2",
		"  planned minted set tested PUBLISHED converged retired",
		"  candidate 0011223344556677, valid until 2026-03-01 13:00:00Z",
		"  paused by operator 1s ago (2026-03-01 11:59:59Z): freeze",
		"  waiting for consumers since 1m ago (2026-03-01 11:59:00Z), until in 1m (2026-03-01 12:01:00Z)",
		"  straggler b 10.0.0.1:443: previous, serves ffeeddccbbaa9988 since 1h ago (2026-03-01 11:00:00Z)",
	}
	if diff := cmp.Diff(want, w.picture(waiting())); diff != "" {
		t.Error(diff)
	}
}

func TestATerminalIsRedrawnInPlace(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{printer: printerAt(&out), target: "payments"}
	w.printer.terminal = true
	w.show(waiting())
	first := out.Len()
	w.show(waiting())
	if got := out.String()[first:]; !strings.HasPrefix(got, "\x1b[6A\x1b[J") {
		t.Errorf("got %q, want it to begin by removing 6 lines", got)
	}
}

func TestAPictureFitsTheTerminal(t *testing.T) {
	got := fit([]string{"\x1b[31mstraggler\x1b[0m", "b", "c", "d", "e"}, 6, 4)
	if diff := cmp.Diff([]string{"\x1b[31mstrag\x1b[0m", "b", "  and"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestElsewhereOnlyNewsIsPrinted(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{printer: printerAt(&out), target: "payments"}
	w.show(waiting())
	first := out.String()
	if !strings.HasPrefix(first, "2026-03-01 12:00:00Z payments@3 PUBLISHED wave 2 of 2\n") || !strings.Contains(first, "Z   straggler b 10.0.0.1:443: previous") {
		t.Errorf("got %q", first)
	}
	w.show(waiting())
	if out.String() != first {
		t.Errorf("the same was told twice: %q", out.String())
	}
	changed := waiting()
	changed.Stragglers = nil
	w.show(changed)
	if out.String() == first {
		t.Error("a straggler less was not told")
	}
}

func TestExitCodes(t *testing.T) {
	for what, c := range map[string]struct {
		err  error
		want int
	}{
		"done":                           {nil, 0},
		"a bad answer":                   {answerError{"broken"}, 1},
		"usage":                          {withHint(usage(errors.New("x")), "hint"), 2},
		"invalid":                        {activities.Errorf(activities.Invalid, "x"), 2},
		"unreachable":                    {explained(activities.Errorf(activities.Transient, "x")), 3},
		"denied":                         {activities.Errorf(activities.Denied, "x"), 4},
		"not found":                      {unknownCertificate(activities.Errorf(activities.NotFound, "x")), 5},
		"not possible now":               {activities.Errorf(activities.Conflict, "x"), 6},
		"checked and bad":                {activities.Errorf(activities.Failed, "x"), 1},
		"interrupted by the keyboard":    {context.Canceled, 130},
		"usage wins over what caused it": {usage(activities.Errorf(activities.NotFound, "x")), 2},
	} {
		if got := report(new(bytes.Buffer), c.err); got != c.want {
			t.Errorf("%s: got %d, want %d", what, got, c.want)
		}
	}
}
