package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"castellan.dev/activities"
)

// printer writes what a command found: a table or lines for people, JSON for scripts.
type printer struct {
	out      io.Writer
	terminal bool // progress may be redrawn in place
	colour   bool
	json     bool
	now      func() time.Time
}

// printer returns the command's printer.
func (f *flags) printer(cmd *cobra.Command) *printer {
	p := &printer{out: cmd.OutOrStdout(), json: f.output == "json", now: time.Now}
	if file, ok := p.out.(*os.File); ok && !p.json && os.Getenv("TERM") != "dumb" {
		p.terminal = term.IsTerminal(int(file.Fd()))
	}
	p.colour = p.terminal && os.Getenv("NO_COLOR") == ""
	return p
}

// size returns the terminal's columns and rows.
func (p *printer) size() (width, height int) {
	if file, ok := p.out.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}

// fit cuts a picture to the terminal, because what wraps or scrolls cannot be redrawn.
func fit(lines []string, width, height int) []string {
	if most := max(height-1, 2); len(lines) > most {
		lines = append(lines[:most-1:most-1], fmt.Sprintf("  and %d lines more", len(lines)-most+1))
	}
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = cut(line, width-1)
	}
	return out
}

// cut shortens a line to so many visible characters; what colours it is kept.
func cut(line string, most int) string {
	var out strings.Builder
	visible, escape := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			escape = true
			out.WriteRune(r)
		case escape:
			escape = r != 'm'
			out.WriteRune(r)
		case visible < most:
			visible++
			out.WriteRune(r)
		}
	}
	return out.String()
}

// style is an SGR parameter; empty leaves text as it is.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// cell is a piece of a line.
type cell struct {
	text  string
	style style
}

// word is text as it is; text is formatted.
func word(value string) cell                    { return cell{text: value} }
func text(format string, arguments ...any) cell { return cell{text: fmt.Sprintf(format, arguments...)} }

// paint returns the cell as the terminal shall see it. What comes from elsewhere cannot steer it.
func (p *printer) paint(c cell) string {
	clean := strings.Map(printable, c.text)
	if !p.colour || c.style == plain || clean == "" {
		return clean
	}
	return "\x1b[" + string(c.style) + "m" + clean + "\x1b[0m"
}

func printable(r rune) rune {
	if r == '\n' || unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// line prints cells separated by spaces.
func (p *printer) line(cells ...cell) { fmt.Fprintln(p.out, p.join(cells)) }

func (p *printer) join(cells []cell) string {
	parts := make([]string, 0, len(cells))
	for _, c := range cells {
		if c.text != "" {
			parts = append(parts, p.paint(c))
		}
	}
	return strings.Join(parts, " ")
}

// say prints one line of text.
func (p *printer) say(format string, arguments ...any) { p.line(text(format, arguments...)) }

// table prints rows under a heading, each column as wide as its widest cell.
func (p *printer) table(heading []string, rows [][]cell) {
	head := make([]cell, len(heading))
	for i, name := range heading {
		head[i] = cell{name, dim}
	}
	p.columns(append([][]cell{head}, rows...))
}

// fields prints names and values in two columns; empty values are left out.
func (p *printer) fields(pairs ...any) {
	var rows [][]cell
	for i := 0; i+1 < len(pairs); i += 2 {
		value, ok := pairs[i+1].(cell)
		if !ok {
			value = cell{text: fmt.Sprint(pairs[i+1])}
		}
		if value.text != "" && value.text != "-" {
			rows = append(rows, []cell{{pairs[i].(string), dim}, value})
		}
	}
	p.columns(rows)
}

func (p *printer) columns(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(p.paint(c))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		fmt.Fprintln(p.out, strings.TrimRight(line.String(), " "))
	}
}

// value prints v as indented JSON.
func (p *printer) value(v any) error {
	encoder := json.NewEncoder(p.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// event prints v as one line of JSON.
func (p *printer) event(v any) error {
	encoder := json.NewEncoder(p.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// when writes a moment both ways: "in 14h (2026-03-01 10:00:00Z)".
func (p *printer) when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return p.relative(t) + " (" + stamp(t) + ")"
}

func (p *printer) relative(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := t.Sub(p.now())
	if d >= 0 {
		return "in " + short(d)
	}
	return short(-d) + " ago"
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// short writes a duration in its largest unit.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// stateCell shows a rotation's state in the colour of what it asks of a person.
func stateCell(state activities.State) cell {
	c := cell{text: string(state)}
	switch state {
	case "":
		c.text = "-"
	case activities.Retired, activities.ProvenDead, activities.NotDue:
		c.style = green
	case activities.Quarantined:
		c.style = red
	case activities.RolledBack, activities.Aborted, activities.Superseded:
		c.style = yellow
	default:
		c.style = cyan
	}
	return c
}

// finger shortens a fingerprint so that two can be told apart.
func finger(fingerprint string) string { return fingerprint[:min(16, len(fingerprint))] }

func dash(value string) string {
	if value == "" {
		return "-"
	}
	return value
}
