package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// cause is why a target is due.
type cause struct {
	reason   string
	sentence string
	at       time.Time // since when; zero: from now on
	outage   bool      // nothing works that could be disturbed: it waits for no window and no group
}

// rule says whether it finds the target due. The chain's first answer counts.
type rule func(Input, plan) (cause, bool)

// causes is the chain that decides whether a target is due. Its order is the order of precedence.
func causes() []rule {
	return []rule{
		inHand,              // what was begun is ended; half a rotation is worse than one at a bad time
		compromised,         // a credential that must not be trusted goes first
		missing,             // make sure there is a credential
		expired,             // make sure it is still valid
		operatorAsked,       // an operator's word counts before any date
		namesChanged,        // make sure it is for the configured subjects
		usageChanged,        // ... and usage
		keyAlgorithmChanged, // ... with the configured kind of key
		issuerChanged,       // ... from the configured issuer
		reached,             // make sure it is replaced in good time
	}
}

func inHand(in Input, s plan) (cause, bool) {
	return cause{reason: ReasonInHand, sentence: "its rotation is in hand already", at: s.at}, in.InHand
}

func compromised(in Input, _ plan) (cause, bool) {
	sentence := "was reported compromised"
	if in.Trigger.Actor != "" {
		sentence += " by " + in.Trigger.Actor
	}
	return cause{reason: ReasonCompromise, sentence: sentence}, in.Trigger.Compromise
}

func missing(in Input, _ plan) (cause, bool) {
	return cause{reason: ReasonMissing, sentence: "there is no certificate yet", outage: true}, !in.Observed.Exists
}

func expired(in Input, s plan) (cause, bool) {
	end := in.Observed.NotAfter
	return cause{reason: ReasonExpired, sentence: "expired at " + stamp(end), at: s.at, outage: !in.Policy.Strict}, !in.Now.Before(end)
}

func operatorAsked(in Input, _ plan) (cause, bool) {
	who := in.Trigger.Actor
	if who == "" {
		who = "an operator"
	}
	return cause{reason: ReasonOperator, sentence: who + " asked for it now"}, in.Trigger.Now
}

func namesChanged(in Input, _ plan) (cause, bool) {
	has := subjects(in.Observed.DNSNames, in.Observed.IPAddresses, in.Observed.URIs)
	wants := subjects(in.Desired.DNSNames, in.Desired.IPAddresses, in.Desired.URIs)
	if len(has) == 0 && in.Observed.CommonName == "" {
		return cause{}, false // not observed
	}
	var changes []string
	if lacks := without(wants, has); len(lacks) > 0 {
		changes = append(changes, "lacks "+strings.Join(lacks, ", "))
	}
	if more := without(has, wants); len(more) > 0 {
		changes = append(changes, "still has "+strings.Join(more, ", "))
	}
	if in.Desired.CommonName != "" && in.Observed.CommonName != in.Desired.CommonName {
		changes = append(changes, fmt.Sprintf("has common name %q, not %q", in.Observed.CommonName, in.Desired.CommonName))
	}
	return cause{reason: ReasonNames, sentence: strings.Join(changes, "; ")}, len(changes) > 0
}

func usageChanged(in Input, _ plan) (cause, bool) {
	return changed(ReasonUsage, "usage", in.Observed.Usage, in.Desired.Usage)
}

func keyAlgorithmChanged(in Input, _ plan) (cause, bool) {
	return changed(ReasonKeyAlgorithm, "key", in.Observed.KeyAlgorithm, in.Desired.KeyAlgorithm)
}

func issuerChanged(in Input, _ plan) (cause, bool) {
	return changed(ReasonIssuer, "issuer", in.Observed.Issuer, in.Desired.Issuer)
}

func reached(in Input, s plan) (cause, bool) {
	return cause{reason: ReasonDue, sentence: s.because + ", reached " + stamp(s.at), at: s.at}, !in.Now.Before(s.at)
}

// changed compares one property; what was not observed or not asked for is not compared.
func changed(reason, what, has, wants string) (cause, bool) {
	sentence := fmt.Sprintf("has %s %q, not %q", what, has, wants)
	return cause{reason: reason, sentence: sentence}, has != "" && wants != "" && has != wants
}

// subjects joins names in one canonical, sorted form.
func subjects(names, addresses, uris []string) []string {
	var all []string
	for _, name := range names {
		all = append(all, strings.ToLower(name))
	}
	for _, address := range addresses {
		if parsed, err := netip.ParseAddr(address); err == nil {
			address = parsed.Unmap().String()
		}
		all = append(all, address)
	}
	all = append(all, uris...)
	slices.Sort(all)
	return slices.Compact(all)
}

// without returns what is in a but not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(name string) bool { return slices.Contains(b, name) })
}

// stamp writes a moment as it is written everywhere: UTC, to the second.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
