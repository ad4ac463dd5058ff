package policy

import (
	"math"
	"testing"
	"time"
)

func TestDurationsAreReadWithDays(t *testing.T) {
	tests := map[string]struct {
		want time.Duration
		ok   bool
	}{
		"720h": {720 * time.Hour, true}, "30d": {30 * day, true}, "1d12h": {36 * time.Hour, true}, "0": {0, true}, "0s": {0, true},
		"1.5h": {90 * time.Minute, true}, "2 monts": {}, "": {}, "d": {}, "1d2d": {}, "-1h": {}, "1d-1h": {}, "+1h": {}, "60": {}, "1w": {},
		"999999999d": {}, "36600d": {36600 * day, true}, "1.5d": {}, "-1d": {}, "36600d2562047h": {},
	}
	for text, test := range tests {
		got, err := ParseDuration(text)
		if (err == nil) != test.ok || got != test.want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s, ok %t", text, got, err, test.want, test.ok)
		}
	}
}

func TestDurationsAreWrittenAsPeopleWriteThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		90 * day: "90d", 36 * time.Hour: "36h", 2 * time.Minute: "2m", 90 * time.Minute: "1h30m", 0: "0s",
		1500 * time.Millisecond: "1.5s", 10*time.Hour + 10*time.Second: "10h0m10s", 10 * time.Second: "10s", 20 * time.Minute: "20m",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestFractionsAreExact(t *testing.T) {
	tests := map[string]struct {
		want Fraction
		ok   bool
	}{
		"2/3": {Fraction{2, 3}, true}, "66%": {Fraction{66, 100}, true}, "0.66": {Fraction{66, 100}, true}, "0.5": {Fraction{5, 10}, true},
		"1": {}, "0": {}, "3/2": {}, "1/1": {}, "100%": {}, "0%": {}, "-1/2": {}, "1/0": {}, "0.": {}, "half": {}, "1/20000": {}, "": {},
	}
	for text, test := range tests {
		var got Fraction
		err := got.UnmarshalText([]byte(text))
		if (err == nil) != test.ok || got != test.want {
			t.Errorf("fraction %q = %v, %v, want %v, ok %t", text, got, err, test.want, test.ok)
		}
	}
	if got := (Fraction{2, 3}).Of(3 * time.Nanosecond); got != 2 {
		t.Errorf("2/3 of 3ns = %d, want 2", got)
	}
	if got := (Fraction{9998, 9999}).Of(math.MaxInt64); got <= 0 {
		t.Errorf("a share of the longest duration = %d, want no overflow", got)
	}
}
