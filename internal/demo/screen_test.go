package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func picture(now time.Time) *screen {
	return &screen{
		began: now.Add(-83 * time.Second), size: func() (int, int) { return 80, 24 },
		acts: []line{{"the worker is killed", seen, "SIGKILL"}, {"a straggler is named", playing, ""}, {"evidence", ahead, ""}},
		board: board{Fires: 17, Load: Count{Probes: 1200, Failed: 3, Longest: 97 * time.Millisecond}, Targets: []row{
			{Name: "payments", Rotation: "payments@2", State: "PUBLISHED", Candidate: "0123456789abcdef", Ends: now.Add(75 * time.Second), Stragglers: []string{"payments-2 uses the previous"}},
			{Name: "auditor", Rotation: "auditor@2", State: "PROVEN_DEAD"},
		}},
		events: []string{"one", "two", "three", "four", "five"},
	}
}

func TestThePictureShowsWhatHappens(t *testing.T) {
	now := time.Now()
	got := strings.Join(picture(now).render(200, 60, now), "\n")
	for _, want := range []string{
		"83 s", "fired 17 times", "tested [PUBLISHED] converged", "key 0123456789ab", "ends in 1m15s", "straggler payments-2 uses the previous",
		"[PROVEN_DEAD]", "1197 ok, 3 FAILED", "longest gap 97ms", "ok the worker is killed: SIGKILL", ">> a straggler is named", "five",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the picture lacks %q:\n%s", want, got)
		}
	}
}

func TestThePictureFitsTheTerminal(t *testing.T) {
	now := time.Now()
	for _, size := range [][2]int{{80, 24}, {30, 14}, {10, 5}} {
		lines := picture(now).render(size[0], size[1], now)
		if len(lines) >= size[1] {
			t.Errorf("%v: got %d lines, want fewer than %d", size, len(lines), size[1])
		}
		for _, text := range lines {
			if n := utf8.RuneCountInString(text); n > size[0] {
				t.Errorf("%v: got a line of %d characters: %q", size, n, text)
			}
		}
	}
}

func TestOnlyATerminalIsRedrawn(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var out bytes.Buffer
		s := picture(time.Now())
		s.out, s.terminal = &out, terminal
		s.open()
		s.event("it happened")
		s.act(1, seen, "it converged")
		s.tick()
		s.close()
		s.show(board{Fires: 99}) // after the end nothing is drawn
		got := out.String()
		if strings.Contains(got, "\x1b") != terminal {
			t.Errorf("terminal %t: got escapes %t", terminal, !terminal)
		}
		for _, want := range []string{"it happened", "a straggler is named: it converged"} {
			if !strings.Contains(got, want) {
				t.Errorf("terminal %t: got %q, want %q in it", terminal, got, want)
			}
		}
		if strings.Contains(got, "99 times") {
			t.Errorf("terminal %t: drawn after the end", terminal)
		}
	}
}
