package policy

import (
	"testing"
	"time"
)

// berlin is a zone that changes its clocks: in 2026 on 29 March at 01:00 UTC (02:00 becomes 03:00) and
// on 25 October at 01:00 UTC (03:00 becomes 02:00).
func berlin(t *testing.T) *time.Location {
	t.Helper()
	location, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return location
}

// utc parses a moment.
func utc(t *testing.T, text string) time.Time {
	t.Helper()
	moment, err := time.Parse("2006-01-02T15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func TestWindowsKeepToTheWallClockAndToTheirDurationWhenClocksChange(t *testing.T) {
	tests := map[string]struct {
		hour, minute int
		duration     time.Duration
		after        string // UTC
		opens        string // UTC
		closes       string // UTC
	}{
		"in winter 02:30 is 01:30 UTC":                                      {2, 30, time.Hour, "2026-03-27T12:00", "2026-03-28T01:30", "2026-03-28T02:30"},
		"02:30 does not exist on the night of the spring change: at 03:00":  {2, 30, time.Hour, "2026-03-28T12:00", "2026-03-29T01:00", "2026-03-29T02:00"},
		"the night after the spring change 02:30 is 00:30 UTC":              {2, 30, time.Hour, "2026-03-29T12:00", "2026-03-30T00:30", "2026-03-30T01:30"},
		"a window across the spring change lasts as long as on other days":  {1, 0, 3 * time.Hour, "2026-03-28T12:00", "2026-03-29T00:00", "2026-03-29T03:00"},
		"02:30 comes twice on the night of the autumn change: at the first": {2, 30, time.Hour, "2026-10-24T12:00", "2026-10-25T00:30", "2026-10-25T01:30"},
		"and does not open again an hour later":                             {2, 30, time.Hour, "2026-10-25T01:30", "2026-10-26T01:30", "2026-10-26T02:30"},
		"a window across the autumn change lasts as long as on other days":  {1, 0, 3 * time.Hour, "2026-10-24T12:00", "2026-10-24T23:00", "2026-10-25T02:00"},
		"02:00 at the autumn change is the first 02:00":                     {2, 0, time.Hour, "2026-10-24T12:00", "2026-10-25T00:00", "2026-10-25T01:00"},
		"03:00 at the autumn change comes once":                             {3, 0, time.Hour, "2026-10-24T12:00", "2026-10-25T02:00", "2026-10-25T03:00"},
		"03:00 at the spring change is the moment of the change":            {3, 0, time.Hour, "2026-03-28T12:00", "2026-03-29T01:00", "2026-03-29T02:00"},
		"a window of a week is found while it is open":                      {0, 0, 7 * day, "2026-03-28T12:00", "2026-03-21T23:00", "2026-03-28T23:00"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			window := Window{Hour: test.hour, Minute: test.minute, Duration: test.duration, Location: berlin(t)}
			got, ok := window.next(utc(t, test.after))
			if !ok || !got.from.Equal(utc(t, test.opens)) || !got.until.Equal(utc(t, test.closes)) {
				t.Errorf("next after %s = %s to %s, want %s to %s", test.after, stamp(got.from), stamp(got.until), test.opens, test.closes)
			}
		})
	}
}

func TestWindowOnCertainDaysBelongsToTheLocalDay(t *testing.T) {
	// Sunday 00:30 in Berlin is still Saturday in UTC.
	window := Window{Days: []time.Weekday{time.Sunday}, Hour: 0, Minute: 30, Duration: time.Hour, Location: berlin(t)}
	got, ok := window.next(utc(t, "2026-03-27T12:00"))
	if want := utc(t, "2026-03-28T23:30"); !ok || !got.from.Equal(want) {
		t.Errorf("opens at %s, want %s", stamp(got.from), stamp(want))
	}
}

// Over a year and at every quarter of an hour: the occurrence that next returns has not closed, and
// none that is open is missed.
func TestNextWindowAgreesWithASearchByTheQuarterOfAnHour(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} {
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		window := Window{Days: []time.Weekday{time.Sunday, time.Wednesday}, Hour: 1, Minute: 45, Duration: 90 * time.Minute, Location: location}
		var previous span
		for at := utc(t, "2026-01-01T00:00"); at.Before(utc(t, "2027-01-02T00:00")); at = at.Add(15 * time.Minute) {
			got, ok := window.next(at)
			if !ok || !at.Before(got.until) {
				t.Fatalf("%s: next at %s = %s to %s, which is over", zone, stamp(at), stamp(got.from), stamp(got.until))
			}
			if got.until.Sub(got.from) != 90*time.Minute || !window.on(got.from.In(location).Weekday()) {
				t.Fatalf("%s: occurrence %s to %s has the wrong length or day", zone, stamp(got.from), stamp(got.until))
			}
			if !previous.until.IsZero() && !got.from.Equal(previous.from) && (at.Before(previous.until) || got.from.Sub(previous.from) > 5*day) {
				t.Fatalf("%s: at %s the occurrence jumped from %s to %s", zone, stamp(at), stamp(previous.from), stamp(got.from))
			}
			previous = got
		}
	}
}

func TestBlackouts(t *testing.T) {
	location := berlin(t)
	yearly := Blackout{
		Name: "year-end", Yearly: true,
		From: time.Date(2024, 12, 20, 0, 0, 0, 0, location), Until: time.Date(2024, 1, 4, 0, 0, 0, 0, location),
	}
	once := Blackout{Name: "move", From: time.Date(2026, 6, 1, 18, 0, 0, 0, location), Until: time.Date(2026, 6, 2, 6, 0, 0, 0, location)}
	tests := map[string]struct {
		at    string // UTC
		until string // UTC; empty: no blackout
	}{
		"the second before the yearly one begins":   {"2026-12-19T22:59", ""},
		"the moment at which the yearly one begins": {"2026-12-19T23:00", "2027-01-03T23:00"},
		"the yearly one after new year":             {"2027-01-02T12:00", "2027-01-03T23:00"},
		"the moment at which the yearly one ends":   {"2027-01-03T23:00", ""},
		"another year":                          {"2031-12-31T12:00", "2032-01-03T23:00"},
		"summer":                                {"2026-07-01T12:00", ""},
		"inside the single one, by summer time": {"2026-06-01T16:00", "2026-06-02T04:00"},
		"the moment at which the single one ends":        {"2026-06-02T04:00", ""},
		"the same day a year after the single one":       {"2027-06-01T20:00", ""},
		"new year's eve in Berlin, not yet so in London": {"2026-12-31T23:30", "2027-01-03T23:00"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, until, covered := blackoutAt([]Blackout{yearly, once}, utc(t, test.at))
			if covered != (test.until != "") {
				t.Fatalf("covered = %t until %s, want %q", covered, stamp(until), test.until)
			}
			if covered && !until.Equal(utc(t, test.until)) {
				t.Errorf("ends %s, want %s", stamp(until), test.until)
			}
		})
	}
}
