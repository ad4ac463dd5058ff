package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
	"castellan.dev/testsuite/fault"
)

func checkIssue(ctx context.Context, f IssuerFixture) error {
	csr, _, err := newCSR(p256, everyName())
	if err != nil {
		return err
	}
	got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr})
	if err != nil {
		return f.unexpected("issue", err)
	}
	return f.verified(ctx, got, csr)
}

func checkAlgorithms(ctx context.Context, f IssuerFixture) error {
	for _, algorithm := range []keyAlgorithm{p256, p384, ed25519Key, rsa2048} {
		csr, _, err := newCSR(algorithm, oneName())
		if err != nil {
			return err
		}
		got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr})
		if err != nil {
			return f.unexpected("issue over "+string(algorithm), err)
		}
		if err := f.verified(ctx, got, csr); err != nil {
			return fmt.Errorf("%s: %w", algorithm, err)
		}
	}
	return nil
}

func checkIssueTwice(ctx context.Context, f IssuerFixture) error {
	csr, _, err := newCSR(p256, oneName())
	if err != nil {
		return err
	}
	var serials []string
	for range 2 {
		got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr})
		if err != nil {
			return f.unexpected("issue", err)
		}
		if err := f.verified(ctx, got, csr); err != nil {
			return err
		}
		serials = append(serials, got.Leaf().SerialNumber.String())
	}
	if serials[0] == serials[1] {
		return fmt.Errorf("both certificates have the serial %s", serials[0])
	}
	return nil
}

func checkConcurrent(ctx context.Context, f IssuerFixture) error {
	const callers = 8
	serials, failures := make([]string, callers), make([]error, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			csr, _, err := newCSR(p256, oneName())
			if err != nil {
				failures[i] = err
				return
			}
			got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr})
			if err != nil {
				failures[i] = f.unexpected("issue", err)
				return
			}
			failures[i] = f.verified(ctx, got, csr)
			serials[i] = got.Leaf().SerialNumber.String()
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, serial := range serials {
		if seen[serial] {
			failures = append(failures, fmt.Errorf("serial %q was given twice", serial))
		}
		seen[serial] = true
	}
	return errors.Join(failures...)
}

func checkLifetime(ctx context.Context, f IssuerFixture) error {
	const rounding = 2 * time.Second
	csr, _, err := newCSR(p256, oneName())
	if err != nil {
		return err
	}
	earliest := time.Now().Add(f.Granted - rounding)
	got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr, Lifetime: f.Granted})
	if err != nil {
		return f.unexpected("issue", err)
	}
	latest := time.Now().Add(f.Granted + rounding)
	if end := got.Leaf().NotAfter; end.Before(earliest) || end.After(latest) {
		return fmt.Errorf("asked for a lifetime of %s, the leaf ends at %s, not between %s and %s", f.Granted, end, earliest, latest)
	}
	return f.verified(ctx, got, csr)
}

func checkNameless(ctx context.Context, f IssuerFixture) error {
	csr, _, err := newCSR(p256, nameless())
	if err != nil {
		return err
	}
	_, err = f.Issuer.Issue(ctx, issue.Request{CSR: csr})
	return f.wantKind("issue without names", err, activities.Invalid)
}

func checkLostReply(ctx context.Context, f IssuerFixture) error {
	csr, _, err := newCSR(p256, oneName())
	if err != nil {
		return err
	}
	return f.lose(ctx, func() error {
		got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr})
		if err != nil {
			return err
		}
		return f.verified(ctx, got, csr)
	})
}

func checkDown(ctx context.Context, f IssuerFixture) error {
	csr, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	for _, mode := range []fault.Mode{fault.Refuse, fault.Cut} {
		if err := f.Proxy.Set(mode); err != nil {
			return err
		}
		_, err = f.Issuer.Issue(ctx, issue.Request{CSR: csr})
		if err := f.wantKind("issue, "+mode.String(), err, activities.Transient); err != nil {
			return err
		}
		err = f.Issuer.Revoke(ctx, issue.Revocation{Certificate: current.Leaf, Reason: superseded})
		if err := f.wantKind("revoke, "+mode.String(), err, activities.Transient); err != nil {
			return err
		}
	}
	if err := f.Proxy.Set(fault.Pass); err != nil {
		return err
	}
	if _, err = f.Issuer.Issue(ctx, issue.Request{CSR: csr}); err != nil {
		return f.unexpected("issue after the CA came back", err)
	}
	return nil
}

// checkStalled gives up on a CA that accepts connections and says nothing. Nothing was sent yet.
func checkStalled(ctx context.Context, f IssuerFixture) error {
	csr, _, err := f.issued(ctx)
	if err != nil {
		return err
	}
	if err := f.Proxy.Set(fault.Stall); err != nil {
		return err
	}
	before := f.Proxy.Accepted()
	impatient, giveUp := context.WithCancel(ctx)
	defer giveUp()
	failed := make(chan error, 1)
	go func() {
		_, err := f.Issuer.Issue(impatient, issue.Request{CSR: csr})
		failed <- err
	}()
	if err := issuerUntil(ctx, func() bool { return f.Proxy.Accepted() > before }); err != nil {
		return err
	}
	giveUp()
	return f.wantKind("issue", <-failed, activities.Transient)
}

func checkForeign(ctx context.Context, f IssuerFixture) error {
	csr, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	_, err = f.Foreign.Issue(ctx, issue.Request{CSR: csr})
	if err := f.wantKind("issue", err, activities.Denied, activities.Invalid); err != nil {
		return err
	}
	err = f.Foreign.Revoke(ctx, issue.Revocation{Certificate: current.Leaf, Reason: superseded})
	return f.wantKind("revoke", err, activities.Denied, activities.Invalid)
}

func checkRevokeTwice(ctx context.Context, f IssuerFixture) error {
	_, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	for range 2 {
		revocation := issue.Revocation{Certificate: current.Leaf, Reason: superseded, Sentence: "replaced"}
		if err := f.Issuer.Revoke(ctx, revocation); err != nil {
			return f.unexpected("revoke", err)
		}
	}
	return nil
}

func checkLostRevocation(ctx context.Context, f IssuerFixture) error {
	_, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	return f.lose(ctx, func() error {
		return f.Issuer.Revoke(ctx, issue.Revocation{Certificate: current.Leaf, Reason: keyCompromise})
	})
}

func checkRevocationList(ctx context.Context, f IssuerFixture) error {
	_, revoked, err := f.issued(ctx)
	if err != nil {
		return err
	}
	_, sibling, err := f.issued(ctx)
	if err != nil {
		return err
	}
	if err := f.Issuer.Revoke(ctx, issue.Revocation{Certificate: revoked.Leaf, Reason: keyCompromise}); err != nil {
		return f.unexpected("revoke", err)
	}
	list, err := f.Issuer.(issue.RevocationLister).RevocationList(ctx)
	if err != nil {
		return f.unexpected("revocation list", err)
	}
	if string(list.RawIssuer) != string(revoked.Leaf.RawIssuer) {
		return fmt.Errorf("the list is of %q, the certificate of %q", list.Issuer, revoked.Leaf.Issuer)
	}
	found := false
	for _, entry := range list.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(sibling.Leaf.SerialNumber) == 0 {
			return errors.New("the list holds a certificate that was not revoked")
		}
		if entry.SerialNumber.Cmp(revoked.Leaf.SerialNumber) == 0 {
			found = true
			if entry.ReasonCode != keyCompromise {
				return fmt.Errorf("the list says reason %d, want %d", entry.ReasonCode, keyCompromise)
			}
		}
	}
	if !found {
		return errors.New("the list lacks the revoked certificate")
	}
	return nil
}
