package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// screen shows the show: redrawn in place on a terminal, as a log of lines elsewhere.
type screen struct {
	out      io.Writer
	terminal bool
	size     func() (width, height int)
	began    time.Time

	mu     sync.Mutex
	acts   []line
	events []string
	board  board
	closed bool // nothing is drawn any more: the summary stands
}

// line is one act as it is shown.
type line struct {
	title  string
	status status
	text   string // what was seen
}

// status is how far an act is.
type status int

const (
	ahead status = iota
	playing
	seen
	failed
)

func (s status) mark() string { return [...]string{"  ", ">>", "ok", "!!"}[s] }

// board is what changes all the time.
type board struct {
	Fires   int64
	Targets []row
	Load    Count
}

// row is one target.
type row struct {
	Name       string
	Rotation   string
	State      string
	Candidate  string
	Ends       time.Time
	Stragglers []string
}

// phases are the states of a rotation that goes forward, as the screen shows them.
var phases = []string{"PLANNED", "MINTED", "SET", "TESTED", "PUBLISHED", "CONVERGED", "RETIRED"}

// event shows something that happened once.
func (s *screen) event(format string, args ...any) {
	text := fmt.Sprintf("%6.1fs  %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, text)
	if !s.terminal {
		fmt.Fprintln(s.out, text)
	}
}

// act sets how far an act is.
func (s *screen) act(i int, now status, text string) {
	s.mu.Lock()
	s.acts[i].status, s.acts[i].text = now, text
	title := s.acts[i].title
	s.mu.Unlock()
	switch now {
	case seen:
		s.event("ok  %s: %s", title, text)
	case failed:
		s.event("!!  %s: %s", title, text)
	}
	s.draw()
}

// show replaces what changes all the time.
func (s *screen) show(b board) {
	s.mu.Lock()
	s.board = b
	s.mu.Unlock()
	s.draw()
}

// tick writes a line about load and targets where nothing is redrawn.
func (s *screen) tick() {
	s.mu.Lock()
	b := s.board
	s.mu.Unlock()
	if !s.terminal {
		s.event("handshakes %d ok, %d failed, longest gap %s; the schedule fired %d times",
			b.Load.Probes-b.Load.Failed, b.Load.Failed, b.Load.Longest.Round(time.Millisecond), b.Fires)
	}
}

func (s *screen) draw() {
	if !s.terminal {
		return
	}
	width, height := s.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	var out strings.Builder
	out.WriteString("\x1b[H")
	for _, text := range s.render(width, height, time.Now()) {
		out.WriteString(text + "\x1b[K\r\n")
	}
	out.WriteString("\x1b[J")
	// A terminal that is gone has nobody to tell.
	_, _ = io.WriteString(s.out, out.String())
}

// open clears the terminal; close leaves the last picture standing above what is printed next.
func (s *screen) open() {
	if s.terminal {
		fmt.Fprint(s.out, "\x1b[2J\x1b[H")
	}
}

func (s *screen) close() {
	s.draw()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// render returns the lines of the picture, each at most as wide as the terminal; the last events fill
// what remains of its height.
func (s *screen) render(width, height int, now time.Time) []string {
	lines := []string{
		fmt.Sprintf("castellan: certificates rotate under load, %.0f s   (Ctrl-C ends)", now.Sub(s.began).Seconds()),
		"",
		fmt.Sprintf("schedule   the due sweep has fired %d times", s.board.Fires),
	}
	for _, r := range s.board.Targets {
		lines = append(lines, fmt.Sprintf("%-10s %s", r.Name, r.describe(now)))
		for _, straggler := range r.Stragglers {
			lines = append(lines, "           straggler "+straggler)
		}
	}
	l := s.board.Load
	lines = append(lines,
		fmt.Sprintf("handshakes %d ok, %d FAILED, one new connection every %s, longest gap %s",
			l.Probes-l.Failed, l.Failed, l.Interval().Round(time.Millisecond), l.Longest.Round(time.Millisecond)), "")
	for _, a := range s.acts {
		text := a.title
		if a.text != "" {
			text += ": " + a.text
		}
		lines = append(lines, a.status.mark()+" "+text)
	}
	lines = append(lines, "")
	if room := height - 1 - len(lines); room > 0 {
		lines = append(lines, s.events[max(0, len(s.events)-room):]...)
	}
	if most := height - 1; most > 0 && len(lines) > most {
		lines = lines[:most]
	}
	for i := range lines {
		lines[i] = clip(lines[i], width)
	}
	return lines
}

// describe shows the phases of a target's rotation with the one in hand in brackets.
func (r row) describe(now time.Time) string {
	var parts []string
	known := false
	for _, phase := range phases {
		if phase == r.State {
			parts, known = append(parts, "["+phase+"]"), true
			continue
		}
		parts = append(parts, strings.ToLower(phase))
	}
	if !known && r.State != "" {
		parts = []string{"[" + r.State + "]"}
	}
	text := fmt.Sprintf("%-14s %s", r.Rotation, strings.Join(parts, " "))
	if !r.Ends.IsZero() {
		text += fmt.Sprintf("  ends in %s", r.Ends.Sub(now).Round(time.Second))
	}
	if r.Candidate != "" {
		text += "  key " + short(r.Candidate)
	}
	return text
}

// clip cuts a line to a width in characters.
func clip(text string, width int) string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width])
}

func short(digest string) string { return digest[:min(12, len(digest))] }

// table writes rows of two columns.
func table(w io.Writer, rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(w, "  %-*s  %s\n", width, r[0], r[1])
	}
}
