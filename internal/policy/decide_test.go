package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
)

const day = 24 * time.Hour

// The current credential of every case lives for 30 days from Monday, 2 March 2026. Without jitter it
// is due on Sunday 22 March, and latest on 29 March 12:00.
var (
	issued  = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	due     = issued.Add(20 * day)
	expires = issued.Add(30 * day)
)

// base returns a target that needs nothing and a policy without jitter.
func base() Input {
	return Input{
		Now:    issued.Add(10 * day),
		Target: "payments",
		Observed: Observed{
			Exists: true, NotBefore: issued, NotAfter: expires, Fingerprint: "f1",
			KeyAlgorithm: "ecdsa-p256", CommonName: "payments.example.com", DNSNames: []string{"payments.example.com"},
			IPAddresses: []string{"2001:db8:0::7"}, URIs: []string{"spiffe://example.com/payments"}, Usage: "server", Issuer: "main",
		},
		Desired: Desired{
			KeyAlgorithm: "ecdsa-p256", CommonName: "payments.example.com", DNSNames: []string{"payments.example.com"},
			IPAddresses: []string{"2001:db8::7"}, URIs: []string{"spiffe://example.com/payments"}, Usage: "server", Issuer: "main",
		},
		Policy: Policy{Jitter: Fixed(0)},
	}
}

// tuesdays is a window from 02:00 to 04:00 UTC on Tuesdays: 24 and 31 March are the next ones.
func tuesdays() []Window {
	return []Window{{Days: []time.Weekday{time.Tuesday}, Hour: 2, Duration: 2 * time.Hour}}
}

// freeze is a blackout in March and April 2026.
func freeze(from, until int) []Blackout {
	return []Blackout{{
		Name: "freeze", Reason: "quarter end",
		From: time.Date(2026, 3, from, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 3, until, 0, 0, 0, 0, time.UTC),
	}}
}

func TestDecide(t *testing.T) {
	tuesday := time.Date(2026, 3, 24, 2, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		change func(*Input)
		due    bool
		reason string
		wait   time.Time
		says   string // part of the sentence
	}{
		"a third of its life to go and nothing changed: not due": {
			change: func(in *Input) {}, reason: ReasonNotDue, says: "renews at 2/3 of its lifetime, at 2026-03-22T00:00:00Z",
		},
		"there is no certificate: due": {
			change: func(in *Input) { in.Observed = Observed{} }, due: true, reason: ReasonMissing,
		},
		"there is no certificate and it is a blackout outside every window: due, because nothing can be disturbed": {
			change: func(in *Input) {
				in.Observed, in.Policy.Windows, in.Policy.Blackouts = Observed{}, tuesdays(), freeze(1, 31)
			}, due: true, reason: ReasonMissing,
		},
		"there is no certificate and issuing failed a moment ago: due, held back": {
			change: func(in *Input) {
				in.Observed, in.Held = Observed{}, Held{Until: in.Now.Add(time.Hour), Reason: "issuer down"}
			}, due: true, reason: ReasonHeld, wait: issued.Add(10*day + time.Hour), says: "issuer down",
		},
		"its time has come to the second: due": {
			change: func(in *Input) { in.Now = due }, due: true, reason: ReasonDue, says: "reached 2026-03-22T00:00:00Z",
		},
		"a nanosecond before its time: not due": {
			change: func(in *Input) { in.Now = due.Add(-1) }, reason: ReasonNotDue,
		},
		"renews ten days before the end: due on that day": {
			change: func(in *Input) { in.Policy.RenewBefore, in.Now = 5*day, expires.Add(-5*day) }, due: true, reason: ReasonDue, says: "renews 5d before its end",
		},
		"renewal before the end is longer than the lifetime: falls back to a fraction instead of renewing for ever": {
			change: func(in *Input) { in.Policy.RenewBefore = 60 * day }, reason: ReasonNotDue, says: "shorter than 60d",
		},
		"a fraction of its own": {
			change: func(in *Input) { in.Policy.RenewAt = Fraction{1, 3} }, due: true, reason: ReasonDue, says: "1/3",
		},
		"it has expired to the second: due": {
			change: func(in *Input) { in.Now = expires }, due: true, reason: ReasonExpired, says: "expired at 2026-04-01T00:00:00Z",
		},
		"it has expired inside a blackout, outside windows, while a neighbour rotates: due, the outage is there already": {
			change: func(in *Input) {
				in.Now, in.Policy.Windows, in.Policy.Blackouts = expires.Add(day), tuesdays(), freeze(1, 60)
				in.Policy.Group, in.Group = "pair", Group{Holder: "orders"}
			}, due: true, reason: ReasonExpired,
		},
		"it has expired but the policy is strict: waits for the window": {
			change: func(in *Input) { in.Now, in.Policy.Windows, in.Policy.Strict = expires, tuesdays(), true },
			due:    true, reason: ReasonWindow, wait: time.Date(2026, 4, 7, 2, 0, 0, 0, time.UTC),
		},
		"a name was added: due": {
			change: func(in *Input) { in.Desired.DNSNames = append(in.Desired.DNSNames, "pay.example.com") },
			due:    true, reason: ReasonNames, says: "lacks pay.example.com",
		},
		"a name was removed: due": {
			change: func(in *Input) { in.Observed.DNSNames = append(in.Observed.DNSNames, "pay.example.com") },
			due:    true, reason: ReasonNames, says: "still has pay.example.com",
		},
		"an address and a URI were exchanged: due": {
			change: func(in *Input) {
				in.Desired.IPAddresses, in.Desired.URIs = []string{"192.0.2.7"}, []string{"spiffe://example.com/pay"}
			}, due: true, reason: ReasonNames, says: "lacks 192.0.2.7, spiffe://example.com/pay; still has 2001:db8::7, spiffe://example.com/payments",
		},
		"the common name changed: due": {
			change: func(in *Input) { in.Desired.CommonName = "payments" }, due: true, reason: ReasonNames, says: `not "payments"`,
		},
		"names in another order and case: not due": {
			change: func(in *Input) {
				in.Desired.DNSNames, in.Observed.DNSNames = []string{"b.example.com", "A.example.com"}, []string{"a.example.com", "B.example.com", "b.example.com"}
			}, reason: ReasonNotDue,
		},
		"names could not be observed: not due for them": {
			change: func(in *Input) {
				in.Observed.DNSNames, in.Observed.IPAddresses, in.Observed.URIs, in.Observed.CommonName = nil, nil, nil, ""
			}, reason: ReasonNotDue,
		},
		"another usage is wanted: due": {
			change: func(in *Input) { in.Desired.Usage = "both" }, due: true, reason: ReasonUsage,
		},
		"another key algorithm is wanted: due": {
			change: func(in *Input) { in.Desired.KeyAlgorithm = "ed25519" }, due: true, reason: ReasonKeyAlgorithm, says: `has key "ecdsa-p256", not "ed25519"`,
		},
		"another issuer is wanted: due": {
			change: func(in *Input) { in.Desired.Issuer = "other" }, due: true, reason: ReasonIssuer,
		},
		"the issuer is not known: not due for it": {
			change: func(in *Input) { in.Observed.Issuer = "" }, reason: ReasonNotDue,
		},
		"an operator asks: due": {
			change: func(in *Input) { in.Trigger = activities.Trigger{Now: true, Actor: "ada"} }, due: true, reason: ReasonOperator, says: "ada asked",
		},
		"an operator asks although it is held back: due": {
			change: func(in *Input) { in.Trigger.Now, in.Held.Until = true, in.Now.Add(time.Hour) }, due: true, reason: ReasonOperator,
		},
		"an operator asks outside the windows: waits": {
			change: func(in *Input) { in.Trigger.Now, in.Policy.Windows = true, tuesdays() },
			due:    true, reason: ReasonWindow, wait: time.Date(2026, 3, 17, 2, 0, 0, 0, time.UTC),
		},
		"an operator asks, windows or not: due": {
			change: func(in *Input) { in.Trigger.Now, in.Trigger.Anytime, in.Policy.Windows = true, true, tuesdays() },
			due:    true, reason: ReasonOperator,
		},
		"an operator asks, windows or not, inside a blackout: waits for its end": {
			change: func(in *Input) {
				in.Trigger.Now, in.Trigger.Anytime, in.Policy.Blackouts = true, true, freeze(10, 15)
			},
			due: true, reason: ReasonBlackout, wait: time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC), says: "blackout freeze (quarter end)",
		},
		"it was compromised outside windows, in a blackout, held back, paused, with a busy neighbour: due": {
			change: func(in *Input) {
				in.Trigger = activities.Trigger{Compromise: true, Actor: "ada"}
				in.Policy.Windows, in.Policy.Blackouts, in.Policy.Strict, in.Policy.Group = tuesdays(), freeze(1, 31), true, "pair"
				in.Held.Until, in.Paused, in.Group = in.Now.Add(time.Hour), true, Group{Holder: "orders"}
			}, due: true, reason: ReasonCompromise, says: "compromised by ada",
		},
		"a rotation is in hand: goes on, whatever the calendar says": {
			change: func(in *Input) {
				in.InHand, in.Policy.Windows, in.Policy.Blackouts, in.Paused = true, tuesdays(), freeze(1, 31), true
			}, due: true, reason: ReasonInHand,
		},
		"it is due but paused: not due": {
			change: func(in *Input) { in.Now, in.Paused = due, true }, reason: ReasonPaused,
		},
		"it is due but held back after a failure: waits": {
			change: func(in *Input) { in.Now, in.Held = due, Held{Until: due.Add(time.Hour), Reason: "canary broken"} },
			due:    true, reason: ReasonHeld, wait: due.Add(time.Hour), says: "canary broken",
		},
		"the back-off is over: due": {
			change: func(in *Input) { in.Now, in.Held.Until = due, due }, due: true, reason: ReasonDue,
		},
		"it is due outside its window: waits for the next one": {
			change: func(in *Input) { in.Now, in.Policy.Windows = due, tuesdays() },
			due:    true, reason: ReasonWindow, wait: tuesday, says: "waits until 2026-03-24T02:00:00Z: outside its maintenance windows",
		},
		"it is due and the window opens: due": {
			change: func(in *Input) { in.Now, in.Policy.Windows = tuesday, tuesdays() }, due: true, reason: ReasonDue,
		},
		"it is due and the window closes in this moment: waits for the next, which is too late, so it does not": {
			change: func(in *Input) { in.Now, in.Policy.Windows = tuesday.Add(2*time.Hour), tuesdays() },
			due:    true, reason: ReasonExpiresFirst, says: "too soon to wait",
		},
		"the next window is too late but the policy is strict: waits": {
			change: func(in *Input) {
				in.Now, in.Policy.Windows, in.Policy.Strict = tuesday.Add(2*time.Hour), tuesdays(), true
			},
			due: true, reason: ReasonWindow, wait: tuesday.Add(7 * day),
		},
		"two windows: the earlier one counts": {
			change: func(in *Input) {
				in.Now, in.Policy.Windows = due.Add(time.Hour), append(tuesdays(), Window{Hour: 23, Minute: 30, Duration: time.Hour})
			}, due: true, reason: ReasonWindow, wait: due.Add(23*time.Hour + 30*time.Minute),
		},
		"the window after midnight of one that opened yesterday is still open": {
			change: func(in *Input) {
				in.Now, in.Policy.Windows = due.Add(20*time.Minute), []Window{{Hour: 23, Minute: 30, Duration: time.Hour}}
			}, due: true, reason: ReasonDue,
		},
		"the blackout covers the next window: waits for the one after, if that is in time": {
			change: func(in *Input) {
				in.Now, in.Policy.Blackouts = due, freeze(21, 24)
				in.Policy.Windows = []Window{{Hour: 2, Duration: time.Hour}}
			}, due: true, reason: ReasonBlackout, wait: time.Date(2026, 3, 24, 2, 0, 0, 0, time.UTC),
		},
		"the blackout lasts until after the end: does not wait once its time has come": {
			change: func(in *Input) { in.Now, in.Policy.Blackouts = due, freeze(21, 60) },
			due:    true, reason: ReasonExpiresFirst, says: "blackout freeze",
		},
		"a name changed in a blackout that lasts until after the end: waits until its time has come": {
			change: func(in *Input) { in.Policy.Blackouts, in.Desired.DNSNames = freeze(1, 60), []string{"b.example.com"} },
			due:    true, reason: ReasonBlackout, wait: due,
		},
		"the blackout lasts until after the end and the policy is strict: waits": {
			change: func(in *Input) { in.Now, in.Policy.Blackouts, in.Policy.Strict = due, freeze(21, 60), true },
			due:    true, reason: ReasonBlackout, wait: time.Date(2026, 3, 60, 0, 0, 0, 0, time.UTC),
		},
		"another member of the group is being rotated: waits for the interval": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group = due, "pair", Group{Holder: "orders"}
			}, due: true, reason: ReasonExclusion, wait: due.Add(3 * day), says: `orders of group "pair" is being rotated`,
		},
		"another member of the group is being rotated in this window: waits for the next": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group = due, "pair", Group{Holder: "orders"}
				in.Policy.Windows = []Window{{Hour: 0, Duration: time.Hour}}
			}, due: true, reason: ReasonExclusion, wait: due.Add(day),
		},
		"another member of the group is being rotated until it is almost too late: waits no longer": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group = expires.Add(-2*day), "pair", Group{Holder: "orders", Last: due.Add(-10 * day)}
			}, due: true, reason: ReasonExpiresFirst, says: `orders of group "pair" is being rotated, but it expires`,
		},
		"another member of the group is being rotated and the policy is strict: waits": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group, in.Policy.Strict = expires.Add(-2*day), "pair", Group{Holder: "orders"}, true
			}, due: true, reason: ReasonExclusion, wait: expires.Add(day),
		},
		"the back-off ends after the end: asks again when it ends": {
			change: func(in *Input) { in.Now, in.Held.Until = due, expires.Add(day) },
			due:    true, reason: ReasonHeld, wait: expires.Add(day),
		},
		"the interval to its neighbour ends after the end: waits until the end at most": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Policy.Apart, in.Group = due, "pair", Fixed(20*day), Group{Last: due.Add(-day)}
			}, due: true, reason: ReasonExclusion, wait: expires,
		},
		"the group's open rotation is its own: due": {
			change: func(in *Input) { in.Now, in.Policy.Group, in.Group = due, "pair", Group{Holder: "payments"} },
			due:    true, reason: ReasonDue,
		},
		"a member without a group does not care who rotates": {
			change: func(in *Input) { in.Now, in.Group = due, Group{Holder: "orders", Last: due} }, due: true, reason: ReasonDue,
		},
		"another member rotated in this window: waits for the next": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group = due.Add(30*time.Minute), "pair", Group{Last: due, LastMember: "orders"}
				in.Policy.Windows = []Window{{Hour: 0, Duration: time.Hour}}
			}, due: true, reason: ReasonExclusion, wait: due.Add(day), says: "orders",
		},
		"another member rotated in the window before: due": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group = due, "pair", Group{Last: due.Add(-day + time.Minute)}
				in.Policy.Windows = []Window{{Hour: 0, Duration: time.Hour}}
			}, due: true, reason: ReasonDue,
		},
		"another member rotated just now and there are no windows: waits for the configured interval": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Policy.Apart, in.Group = due, "pair", Fixed(2*time.Hour), Group{Last: due.Add(-time.Hour)}
			}, due: true, reason: ReasonExclusion, wait: due.Add(time.Hour),
		},
		"no window comes in time but another member rotated in this one: still not in the same window": {
			change: func(in *Input) {
				in.Now, in.Policy.Group, in.Group = tuesday.Add(time.Hour), "pair", Group{Last: tuesday}
				in.Policy.Windows, in.Policy.Apart = tuesdays(), Fixed(time.Minute)
			}, due: true, reason: ReasonExclusion, wait: tuesday.Add(2 * time.Hour), says: "too soon to wait",
		},
		"the dates make no sense: due": {
			change: func(in *Input) { in.Observed.NotAfter = in.Observed.NotBefore.Add(-time.Hour) }, due: true, reason: ReasonExpired,
		},
	}
	seen := map[string]bool{}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			test.change(&in)
			got := Decide(in)
			seen[got.Reason] = true
			if got.Due != test.due || got.Reason != test.reason || !got.Wait.Equal(test.wait) {
				t.Errorf("Decide = due %t, %s, wait %s\nwant     due %t, %s, wait %s\nsentence %q",
					got.Due, got.Reason, got.Wait, test.due, test.reason, test.wait, got.Sentence)
			}
			if !strings.Contains(got.Sentence, test.says) || got.Sentence == "" {
				t.Errorf("sentence = %q, want it to say %q", got.Sentence, test.says)
			}
			if !slices.Contains(Reasons(), got.Reason) {
				t.Errorf("reason %q is not in the fixed set", got.Reason)
			}
			if !got.Deadline.Equal(in.Observed.NotAfter) {
				t.Errorf("deadline = %s, want %s", got.Deadline, in.Observed.NotAfter)
			}
		})
	}
	for _, reason := range Reasons() {
		if !seen[reason] {
			t.Errorf("no case ends with reason %q", reason)
		}
	}
}

func TestNextDue(t *testing.T) {
	tests := map[string]struct {
		change func(*Input)
		want   time.Time
	}{
		"when its time comes":                       {func(in *Input) {}, due},
		"when the window after that opens":          {func(in *Input) { in.Policy.Windows = tuesdays() }, time.Date(2026, 3, 24, 2, 0, 0, 0, time.UTC)},
		"when the blackout ends":                    {func(in *Input) { in.Policy.Blackouts = freeze(20, 25) }, time.Date(2026, 3, 25, 0, 0, 0, 0, time.UTC)},
		"when its back-off ends":                    {func(in *Input) { in.Now, in.Held.Until = due, due.Add(time.Hour) }, due.Add(time.Hour)},
		"now, if it is missing":                     {func(in *Input) { in.Observed = Observed{} }, issued.Add(10 * day)},
		"when its time comes, if no window does":    {func(in *Input) { in.Policy.Blackouts = freeze(20, 60) }, due},
		"since its time came, if that is past":      {func(in *Input) { in.Now = due.Add(day) }, due},
		"apart from the neighbour that rotated":     {func(in *Input) { in.Policy.Group, in.Group.Last = "pair", due }, due.Add(3 * day)},
		"regardless of a neighbour in progress now": {func(in *Input) { in.Policy.Group, in.Group.Holder = "pair", "orders" }, due},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			in := base()
			test.change(&in)
			got, ok := NextDue(in)
			if !ok || !got.Equal(test.want) {
				t.Errorf("NextDue = %s, %t, want %s", got, ok, test.want)
			}
		})
	}
	in := base()
	in.Paused = true
	if got, ok := NextDue(in); ok {
		t.Errorf("NextDue of a paused target = %s, want none", got)
	}
}
