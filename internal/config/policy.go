package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"castellan.dev/internal/policy"
)

// Policy says when certificates are rotated.
type Policy struct {
	RenewAt     policy.Fraction `yaml:"renewAt"`     // share of the lifetime, such as 2/3 (default) or 66%
	RenewBefore time.Duration   `yaml:"renewBefore"` // instead of renewAt: this long before the end
	Jitter      policy.Amount   `yaml:"jitter"`      // later by up to this; a duration or a share of the lifetime; default: 5%
	Windows     []Window        `yaml:"windows"`     // default: any time
	Window      string          `yaml:"window"`      // preferred (default): rotate outside rather than expire; strict: never
	Blackouts   []string        `yaml:"blackouts"`   // names in blackouts; default: none
	Group       string          `yaml:"group"`       // exclusion group whose members never rotate in the same window; default: none
	Apart       policy.Amount   `yaml:"apart"`       // without windows: how far apart members rotate; default: 10% of the lifetime
}

// Window is a recurring maintenance window.
type Window struct {
	Days     []Day         `yaml:"days"`     // mon to sun; default: every day
	Start    Clock         `yaml:"start"`    // 02:30, required
	Duration time.Duration `yaml:"duration"` // how long it stays open, required, at most 7d
	Timezone Zone          `yaml:"timezone"` // such as Europe/Berlin; default: UTC
}

// Blackout is a calendar of periods in which nothing is rotated.
type Blackout struct {
	Timezone Zone     `yaml:"timezone"` // of dates without one; default: UTC
	Periods  []Period `yaml:"periods"`  // at least one
}

// Period is one blackout. Dates are 2026-12-20 or 2026-12-20T18:00, or each year 12-20 or 12-20T18:00;
// an until without a time means the end of that day.
type Period struct {
	From   Date   `yaml:"from"`
	Until  Date   `yaml:"until"`
	Reason string `yaml:"reason"` // shown to people
}

// Day is a day of the week.
type Day struct{ time.Weekday }

// UnmarshalText reads mon to sun.
func (d *Day) UnmarshalText(text []byte) error {
	names := []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	index := slices.Index(names, strings.ToLower(string(text)))
	if index < 0 {
		return errors.New("one of mon, tue, wed, thu, fri, sat, sun")
	}
	d.Weekday = time.Weekday(index)
	return nil
}

// Clock is a time of day.
type Clock struct {
	Hour, Minute int
	given        bool
}

// UnmarshalText reads 02:30.
func (c *Clock) UnmarshalText(text []byte) error {
	parsed, err := time.Parse("15:04", string(text))
	if err != nil {
		return errors.New("a time of day such as 02:30")
	}
	*c = Clock{parsed.Hour(), parsed.Minute(), true}
	return nil
}

// Zone is a time zone by name. The zero value is UTC.
type Zone struct{ location *time.Location }

// Location returns the zone's location.
func (z Zone) Location() *time.Location {
	if z.location == nil {
		return time.UTC
	}
	return z.location
}

// UnmarshalText reads a name such as Europe/Berlin. Local is refused: two workers may differ on it.
func (z *Zone) UnmarshalText(text []byte) error {
	location, err := time.LoadLocation(string(text))
	if err != nil || string(text) == "Local" || len(text) == 0 {
		return errors.New("a time zone such as Europe/Berlin")
	}
	z.location = location
	return nil
}

// Date is the end of a period as it is written. Its moment depends on the calendar's time zone.
type Date struct {
	moment time.Time // wall clock, as if in UTC
	yearly bool
	day    bool // a whole day, without a time
}

// IsZero reports whether the date was not given.
func (d Date) IsZero() bool { return d.moment.IsZero() }

// UnmarshalText reads 2026-12-20, 2026-12-20T18:00, 12-20 or 12-20T18:00.
func (d *Date) UnmarshalText(text []byte) error {
	value, yearly := string(text), false
	if len(value) >= 5 && value[2] == '-' {
		value, yearly = "2024-"+value, true // a leap year, so that 02-29 is a date
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04"} {
		if parsed, err := time.Parse(layout, value); err == nil {
			*d = Date{moment: parsed, yearly: yearly, day: len(layout) == 10}
			return nil
		}
	}
	return errors.New("a date such as 2026-12-20 or 2026-12-20T18:00, or each year 12-20")
}

// in returns the moment in a location.
func (d Date) in(loc *time.Location) time.Time {
	year, month, day := d.moment.Date()
	return time.Date(year, month, day, d.moment.Hour(), d.moment.Minute(), 0, 0, loc)
}

// blackout returns the period as the policy rules know it.
func (p Period) blackout(name string, zone Zone) policy.Blackout {
	until := p.Until
	if until.day {
		until.moment = until.moment.AddDate(0, 0, 1)
	}
	return policy.Blackout{
		Name: name, Reason: p.Reason, Yearly: p.From.yearly,
		From: p.From.in(zone.Location()), Until: until.in(zone.Location()),
	}
}

// PolicyOf returns the policy of a certificate with everything it refers to resolved. The configuration
// must be free of problems.
func (c *Config) PolicyOf(target string) (policy.Policy, error) {
	certificate, ok := c.Certificates[target]
	if !ok {
		return policy.Policy{}, fmt.Errorf("find certificate: %q is not configured", target)
	}
	name := certificate.Policy
	if name == "" {
		name = "default"
	}
	return c.policy(c.Policies[name]), nil
}

// policy resolves a policy's references.
func (c *Config) policy(from Policy) policy.Policy {
	resolved := policy.Policy{
		RenewAt: from.RenewAt, RenewBefore: from.RenewBefore, Jitter: from.Jitter,
		Strict: from.Window == "strict", Group: from.Group, Apart: from.Apart,
	}
	for _, window := range from.Windows {
		days := make([]time.Weekday, len(window.Days))
		for i, day := range window.Days {
			days[i] = day.Weekday
		}
		resolved.Windows = append(resolved.Windows, policy.Window{
			Days: days, Hour: window.Start.Hour, Minute: window.Start.Minute,
			Duration: window.Duration, Location: window.Timezone.Location(),
		})
	}
	for _, name := range from.Blackouts {
		for _, period := range c.Blackouts[name].Periods {
			resolved.Blackouts = append(resolved.Blackouts, period.blackout(name, c.Blackouts[name].Timezone))
		}
	}
	return resolved
}
