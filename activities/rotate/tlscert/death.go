package tlscert

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/rotate"
)

// keyCompromise is the CRLReason of RFC 5280 section 5.3.1.
const keyCompromise = 1

// ProveDead revokes the previous certificate, waits for nothing, and asks every peer whether it refuses
// it now. The issuer's list must name the serial; each peer that checks it must refuse the previous and
// accept the candidate; the others are reported as not provable.
func (k *Kind) ProveDead(ctx context.Context, rotation rotate.Rotation) (activities.DeathResult, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.DeathResult{}, err
	}
	if rotation.Previous.Fingerprint == "" {
		return activities.DeathResult{Proven: true, Proof: activities.Proof{At: k.now().UTC(), Sentence: "there was no previous certificate"}}, nil
	}
	if end := rotation.Previous.NotAfter; !end.IsZero() && k.now().After(end) {
		// An issuer's list leaves out what has expired, so waiting for it there would never end.
		sentence := fmt.Sprintf("the previous certificate expired %s, so nobody accepts it any more", end.UTC().Format(time.RFC3339))
		return activities.DeathResult{Proven: true, Proof: activities.Proof{At: k.now().UTC(), Sentence: sentence}}, nil
	}
	previous, err := k.pair(ctx, rotation.Target, rotation.Previous.Epoch)
	if err != nil && activities.KindOf(err) == activities.NotFound {
		return activities.DeathResult{
			Proof:       activities.Proof{At: k.now().UTC(), Sentence: "castellan does not hold the previous certificate's key; revoke it at its issuer"},
			NotProvable: []string{"every peer: castellan does not hold the previous certificate"},
		}, nil
	}
	if err != nil {
		return activities.DeathResult{}, err
	}
	revocation := issue.Revocation{Certificate: previous.Leaf, Reason: keyCompromise, Sentence: "rotation " + string(rotation.ID)}
	if err := certificate.Issuer.Revoke(ctx, revocation); err != nil {
		return activities.DeathResult{}, err
	}
	onList, err := listed(ctx, certificate.Issuer, previous.Leaf)
	if err != nil {
		return activities.DeathResult{}, err
	}
	sibling, err := k.pair(ctx, rotation.Target, rotation.Epoch)
	if err != nil {
		return activities.DeathResult{}, err
	}
	result := activities.DeathResult{}
	var seen []string
	for _, peer := range certificate.Peers {
		if peer.Probe == nil {
			result.NotProvable = append(result.NotProvable, peer.Name+": checks no revocation list, as far as its configuration says")
			continue
		}
		proven, sentence, err := peer.Probe.Refused(ctx, previous, sibling)
		if err != nil {
			return activities.DeathResult{}, err
		}
		if !proven {
			result.NotProvable = append(result.NotProvable, peer.Name+": "+sentence)
			continue
		}
		seen = append(seen, peer.Name+": "+sentence)
	}
	result.Proven = len(seen) > 0 && len(result.NotProvable) == 0
	result.Proof = activities.Proof{At: k.now().UTC(), Sentence: fmt.Sprintf("serial %s revoked%s; %s", previous.Leaf.SerialNumber, onList, describePeers(seen, result.NotProvable))}
	return result, nil
}

// listed checks that the issuer's revocation list names the certificate, where the issuer has a list. It
// returns half a sentence that says which.
func listed(ctx context.Context, issuer issue.Issuer, leaf *x509.Certificate) (string, error) {
	const none = " (its issuer publishes no list)"
	lister, ok := issuer.(issue.RevocationLister)
	if !ok {
		return none, nil
	}
	list, err := lister.RevocationList(ctx)
	if err != nil && activities.KindOf(err) == activities.NotFound {
		return none, nil // no list will ever come; whether the revocation works is for the peers to show
	}
	if err != nil {
		return "", err
	}
	for _, entry := range list.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
			return " and listed", nil
		}
	}
	return "", activities.Errorf(activities.Transient, "serial %s is revoked but not in the issuer's list yet", leaf.SerialNumber)
}

func describePeers(proven, missing []string) string {
	switch {
	case len(proven) == 0 && len(missing) == 0:
		return "no peer is configured that could prove the refusal"
	case len(missing) == 0:
		return strings.Join(proven, "; ")
	case len(proven) == 0:
		return "not provable: " + strings.Join(missing, "; ")
	}
	return strings.Join(proven, "; ") + "; not provable: " + strings.Join(missing, "; ")
}
