package policy

import (
	"fmt"
	"strings"
	"time"
)

// Window is a recurring maintenance window. It opens at a wall-clock time in its location and stays
// open for an elapsed duration: a job that needs an hour gets an hour, also on the two nights a year
// in which the clocks change.
//
// An opening time that the change to summer time skips opens at the change; one that the change back
// repeats opens once, at its first occurrence.
type Window struct {
	Days     []time.Weekday // empty: every day
	Hour     int
	Minute   int
	Duration time.Duration // at most 7 days
	Location *time.Location
}

// String describes the window in words.
func (w Window) String() string {
	days := "every day"
	if len(w.Days) > 0 {
		names := make([]string, len(w.Days))
		for i, day := range w.Days {
			names[i] = strings.ToLower(day.String()[:3])
		}
		days = strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s at %02d:%02d %s for %s", days, w.Hour, w.Minute, w.location(), FormatDuration(w.Duration))
}

// location returns the window's location, UTC if it has none.
func (w Window) location() *time.Location {
	if w.Location == nil {
		return time.UTC
	}
	return w.Location
}

// span is a half-open interval of time.
type span struct{ from, until time.Time }

// holds reports whether t lies inside.
func (s span) holds(t time.Time) bool { return !t.Before(s.from) && t.Before(s.until) }

// next returns the occurrence of the window that is open at t, or else the first one after it.
func (w Window) next(t time.Time) (span, bool) {
	if w.Duration <= 0 {
		return span{}, false
	}
	first := t.Add(-w.Duration).In(w.location())
	year, month, day := first.Date()
	// Seven days hold every weekday once; the days of an occurrence in progress come on top, and one
	// more at each end covers the change of clocks.
	last := int(w.Duration/(24*time.Hour)) + 10
	for offset := -1; offset <= last; offset++ {
		date := time.Date(year, month, day+offset, 12, 0, 0, 0, time.UTC)
		if !w.on(date.Weekday()) {
			continue
		}
		opens := wallClock(date.Year(), date.Month(), date.Day(), w.Hour, w.Minute, w.location())
		occurrence := span{opens, opens.Add(w.Duration)}
		if t.Before(occurrence.until) {
			return occurrence, true
		}
	}
	return span{}, false
}

// on reports whether the window opens on that day of the week.
func (w Window) on(day time.Weekday) bool {
	for _, each := range w.Days {
		if each == day {
			return true
		}
	}
	return len(w.Days) == 0
}

// wallClock returns the first moment at which clocks in loc show the given time. For a time that is
// skipped it is the moment of the change. time.Date does not promise which moment it picks.
func wallClock(year int, month time.Month, day, hour, minute int, loc *time.Location) time.Time {
	naive := time.Date(year, month, day, hour, minute, 0, 0, time.UTC)
	before, after := offsetAt(naive.Add(-24*time.Hour), loc), offsetAt(naive.Add(24*time.Hour), loc)
	early, late := naive.Add(-max(before, after)), naive.Add(-min(before, after))
	for _, moment := range []time.Time{early, late} {
		if offsetAt(moment, loc) == naive.Sub(moment) {
			return moment.In(loc)
		}
	}
	// Skipped: late lies after the change, so its zone began at the change.
	start, _ := late.In(loc).ZoneBounds()
	return start
}

// offsetAt returns the offset from UTC that clocks in loc have at t.
func offsetAt(t time.Time, loc *time.Location) time.Duration {
	_, seconds := t.In(loc).Zone()
	return time.Duration(seconds) * time.Second
}

// Blackout is a period in which nothing is rotated: a freeze. A yearly one recurs; the years of its
// two ends are then ignored, and an end before its beginning lies in the following year.
type Blackout struct {
	Name   string // of the calendar that it stands in
	Reason string
	From   time.Time
	Until  time.Time // exclusive
	Yearly bool
}

// String describes the blackout in words.
func (b Blackout) String() string {
	layout, each := "2006-01-02 15:04 MST", ""
	if b.Yearly {
		layout, each = "2 January 15:04 MST", "each year "
	}
	text := fmt.Sprintf("%s: %sfrom %s until %s", b.Name, each, b.From.Format(layout), b.Until.Format(layout))
	if b.Reason != "" {
		text += " (" + b.Reason + ")"
	}
	return text
}

// at returns the occurrence that covers t.
func (b Blackout) at(t time.Time) (span, bool) {
	if !b.Yearly {
		occurrence := span{b.From, b.Until}
		return occurrence, occurrence.holds(t)
	}
	for year := t.In(b.From.Location()).Year() - 1; year <= t.In(b.From.Location()).Year(); year++ {
		from, until := inYear(b.From, year), inYear(b.Until, year)
		if !until.After(from) {
			until = inYear(b.Until, year+1)
		}
		if occurrence := (span{from, until}); occurrence.holds(t) {
			return occurrence, true
		}
	}
	return span{}, false
}

// inYear moves a moment to another year, keeping its wall clock.
func inYear(t time.Time, year int) time.Time {
	return wallClock(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Location())
}

// blackoutAt returns the blackout that covers t and ends last.
func blackoutAt(blackouts []Blackout, t time.Time) (Blackout, time.Time, bool) {
	var found Blackout
	var until time.Time
	for _, blackout := range blackouts {
		if occurrence, ok := blackout.at(t); ok && occurrence.until.After(until) {
			found, until = blackout, occurrence.until
		}
	}
	return found, until, !until.IsZero()
}

// windowAt returns the occurrence of any window that is open at t and closes last.
func windowAt(windows []Window, t time.Time) (span, bool) {
	var found span
	for _, window := range windows {
		if occurrence, ok := window.next(t); ok && occurrence.holds(t) && occurrence.until.After(found.until) {
			found = occurrence
		}
	}
	return found, !found.until.IsZero()
}

// nextOpening returns the earliest moment from t on at which some window is open.
func nextOpening(windows []Window, t time.Time) (time.Time, bool) {
	var earliest time.Time
	for _, window := range windows {
		occurrence, ok := window.next(t)
		if !ok {
			continue
		}
		if occurrence.holds(t) {
			return t, true
		}
		if earliest.IsZero() || occurrence.from.Before(earliest) {
			earliest = occurrence.from
		}
	}
	return earliest, !earliest.IsZero()
}
