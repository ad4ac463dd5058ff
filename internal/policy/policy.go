package policy

import (
	"fmt"
	"strings"
	"time"
)

// Defaults that apply where a policy says nothing.
var (
	// DefaultRenewAt leaves a third of the lifetime for repairs.
	DefaultRenewAt = Fraction{2, 3}
	// DefaultJitter spreads targets that were issued in the same minute.
	DefaultJitter = Share(5, 100)
	// DefaultApart keeps members of an exclusion group without windows apart.
	DefaultApart = Share(10, 100)
)

// Policy says when a target is rotated. The zero value renews at 2/3 of the lifetime with a jitter of
// 5% of it, at any time of any day.
type Policy struct {
	RenewAt     Fraction      // share of the lifetime; zero with RenewBefore zero: DefaultRenewAt
	RenewBefore time.Duration // instead of RenewAt: this long before the end
	Jitter      Amount        // not given: DefaultJitter

	Windows   []Window   // empty: any time
	Strict    bool       // rather expire than rotate outside windows or inside a blackout
	Blackouts []Blackout // nothing is rotated inside one

	Group string // exclusion group; empty: none
	Apart Amount // how far apart members rotate when there are no windows; not given: DefaultApart
}

// jitter returns the span over which moments are spread, for a lifetime.
func (p Policy) jitter(lifetime time.Duration) time.Duration {
	if !p.Jitter.Given() {
		return DefaultJitter.Of(lifetime)
	}
	return p.Jitter.Of(lifetime)
}

// apart returns how far apart members of the group rotate.
func (p Policy) apart(lifetime time.Duration) time.Duration {
	if !p.Apart.Given() {
		return DefaultApart.Of(lifetime)
	}
	return p.Apart.Of(lifetime)
}

// Sentences explains the policy to people, one sentence each, defaults included.
func (p Policy) Sentences() []string {
	sentences := []string{p.renewal()}
	if len(p.Windows) == 0 {
		sentences = append(sentences, "rotates at any time of day")
	} else {
		windows := make([]string, len(p.Windows))
		for i, window := range p.Windows {
			windows[i] = window.String()
		}
		sentences = append(sentences, "rotates in windows: "+strings.Join(windows, "; "))
	}
	for _, blackout := range p.Blackouts {
		sentences = append(sentences, "does not rotate in blackout "+blackout.String())
	}
	if len(p.Windows)+len(p.Blackouts) > 0 {
		if p.Strict {
			sentences = append(sentences, "strict: rather expires than rotates outside them")
		} else {
			sentences = append(sentences, "rotates outside them if it would expire first")
		}
	}
	if p.Group != "" {
		sentences = append(sentences, p.exclusion())
	}
	return sentences
}

// renewal says when the policy renews.
func (p Policy) renewal() string {
	jitter := p.Jitter
	if !jitter.Given() {
		jitter = DefaultJitter
	}
	spread := ", without jitter"
	if jitter != Fixed(0) {
		spread = fmt.Sprintf(", later by up to %s (picked once per certificate)", jitter)
	}
	if p.RenewBefore > 0 {
		return fmt.Sprintf("renews %s before the end", FormatDuration(p.RenewBefore)) + spread
	}
	at := p.RenewAt
	if at.IsZero() {
		at = DefaultRenewAt
	}
	return fmt.Sprintf("renews at %s of the lifetime", at) + spread
}

// exclusion says how members of the group stay apart.
func (p Policy) exclusion() string {
	if len(p.Windows) > 0 {
		return fmt.Sprintf("never in the same window as another member of group %q", p.Group)
	}
	apart := p.Apart
	if !apart.Given() {
		apart = DefaultApart
	}
	return fmt.Sprintf("at least %s apart from another member of group %q", apart, p.Group)
}
