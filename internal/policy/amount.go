package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Fraction is a share of a lifetime. It is kept as two integers, because a moment that is computed
// twice must come out the same to the nanosecond. The zero value means "not given".
type Fraction struct {
	Numerator   int64
	Denominator int64
}

// IsZero reports whether no fraction was given.
func (f Fraction) IsZero() bool { return f.Denominator == 0 }

// Of returns the share of a lifetime, rounded down.
func (f Fraction) Of(lifetime time.Duration) time.Duration {
	if f.IsZero() {
		return 0
	}
	whole, rest := int64(lifetime)/f.Denominator, int64(lifetime)%f.Denominator
	return time.Duration(whole*f.Numerator + rest*f.Numerator/f.Denominator)
}

// Less reports whether f is a smaller share than g.
func (f Fraction) Less(g Fraction) bool {
	return f.Numerator*g.Denominator < g.Numerator*f.Denominator
}

// String returns the fraction as it is written in the configuration.
func (f Fraction) String() string {
	switch {
	case f.IsZero():
		return ""
	case f.Denominator == 100:
		return fmt.Sprintf("%d%%", f.Numerator)
	}
	return fmt.Sprintf("%d/%d", f.Numerator, f.Denominator)
}

// errFraction is phrased as an expectation: the configuration loader prints it after "want".
var errFraction = errors.New("a fraction between 0 and 1 such as 2/3, 66% or 0.66")

// UnmarshalText reads 2/3, 66% or 0.66. The share must lie strictly between 0 and 1.
func (f *Fraction) UnmarshalText(text []byte) error {
	parsed, ok := parseFraction(string(text))
	if !ok {
		return errFraction
	}
	*f = parsed
	return nil
}

// parseFraction reads the three spellings. Denominators stay below 10000, so that comparing two
// fractions and taking a share of any lifetime cannot overflow.
func parseFraction(text string) (Fraction, bool) {
	var numerator, denominator string
	if share, found := strings.CutSuffix(text, "%"); found {
		numerator, denominator = share, "100"
	} else if n, d, found := strings.Cut(text, "/"); found {
		numerator, denominator = n, d
	} else if digits, found := strings.CutPrefix(text, "0."); found && len(digits) <= 3 {
		numerator, denominator = digits, "1"+strings.Repeat("0", len(digits))
	}
	n, err := strconv.ParseUint(numerator, 10, 16)
	if err != nil {
		return Fraction{}, false
	}
	d, err := strconv.ParseUint(denominator, 10, 16)
	if err != nil || d >= 10000 || n == 0 || n >= d {
		return Fraction{}, false
	}
	return Fraction{Numerator: int64(n), Denominator: int64(d)}, true
}

// Amount is a duration or a share of the credential's lifetime. The zero value means "not given".
type Amount struct {
	Duration time.Duration
	Fraction Fraction
	given    bool
}

// Fixed returns an amount that is the same for every lifetime.
func Fixed(d time.Duration) Amount { return Amount{Duration: d, given: true} }

// Share returns an amount that is a share of the lifetime.
func Share(numerator, denominator int64) Amount {
	return Amount{Fraction: Fraction{numerator, denominator}, given: true}
}

// Given reports whether the amount was stated, zero included.
func (a Amount) Given() bool { return a.given }

// Of returns the amount for a lifetime.
func (a Amount) Of(lifetime time.Duration) time.Duration {
	if !a.Fraction.IsZero() {
		return a.Fraction.Of(lifetime)
	}
	return a.Duration
}

// String returns the amount as it is written in the configuration.
func (a Amount) String() string {
	if !a.Fraction.IsZero() {
		return a.Fraction.String() + " of the lifetime"
	}
	return FormatDuration(a.Duration)
}

// errAmount is phrased as an expectation: the configuration loader prints it after "want".
var errAmount = errors.New("a duration such as 30m or a share of the lifetime such as 5%")

// UnmarshalText reads a duration such as 30m or 2d, or a share of the lifetime such as 5% or 1/20.
func (a *Amount) UnmarshalText(text []byte) error {
	if fraction, ok := parseFraction(string(text)); ok {
		*a = Amount{Fraction: fraction, given: true}
		return nil
	}
	duration, err := ParseDuration(string(text))
	if err != nil {
		return errAmount
	}
	*a = Fixed(duration)
	return nil
}

// errDuration is phrased as an expectation: the configuration loader prints it after "want".
var errDuration = errors.New("a duration such as 720h or 30d")

// ParseDuration reads a Go duration in which days may be written too: 30d, 1d12h. A day is 24 hours.
// Negative durations and bare numbers are refused.
func ParseDuration(text string) (time.Duration, error) {
	var days time.Duration
	rest := text
	if before, after, found := strings.Cut(text, "d"); found {
		count, err := strconv.ParseUint(before, 10, 32)
		if err != nil || count > 100*366 {
			return 0, errDuration
		}
		days, rest = time.Duration(count)*24*time.Hour, after
		if rest == "" {
			return days, nil
		}
	}
	duration, err := time.ParseDuration(rest)
	if err != nil || duration < 0 || rest[0] == '-' || rest[0] == '+' {
		return 0, errDuration
	}
	if days+duration < 0 {
		return 0, errDuration
	}
	return days + duration, nil
}

// FormatDuration writes a duration as people write it: 90d, 36h, 2m, never 2160h0m0s.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 3*day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
