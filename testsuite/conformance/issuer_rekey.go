package conformance

import (
	"context"
	"crypto"
	"errors"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
)

func checkRekey(ctx context.Context, f IssuerFixture) error {
	_, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	csr, _, err := newCSR(p256, oneName())
	if err != nil {
		return err
	}
	got, err := f.Issuer.(issue.Rekeyer).Rekey(ctx, current, issue.Request{CSR: csr})
	if err != nil {
		return f.unexpected("rekey", err)
	}
	if err := f.verified(ctx, got, csr); err != nil {
		return err
	}
	if got.Leaf().SerialNumber.Cmp(current.Leaf.SerialNumber) == 0 {
		return errors.New("the rekeyed certificate has the current one's serial")
	}
	if public := current.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); public.Equal(got.Leaf().PublicKey) {
		return errors.New("the rekeyed certificate has the current one's key")
	}
	return nil
}

func checkLostRekey(ctx context.Context, f IssuerFixture) error {
	_, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	csr, _, err := newCSR(p256, oneName())
	if err != nil {
		return err
	}
	return f.lose(ctx, func() error {
		got, err := f.Issuer.(issue.Rekeyer).Rekey(ctx, current, issue.Request{CSR: csr})
		if err != nil {
			return err
		}
		return f.verified(ctx, got, csr)
	})
}

func checkRekeyRevoked(ctx context.Context, f IssuerFixture) error {
	csr, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	if err := f.Issuer.Revoke(ctx, issue.Revocation{Certificate: current.Leaf, Reason: keyCompromise}); err != nil {
		return f.unexpected("revoke", err)
	}
	_, err = f.Issuer.(issue.Rekeyer).Rekey(ctx, current, issue.Request{CSR: csr})
	return f.wantKind("rekey", err, activities.Denied)
}

// checkRekeyNames asks for other names: an issuer that cannot change them must say so, and one that
// can must do it.
func checkRekeyNames(ctx context.Context, f IssuerFixture) error {
	_, current, err := f.issued(ctx)
	if err != nil {
		return err
	}
	csr, _, err := newCSR(p256, everyName())
	if err != nil {
		return err
	}
	got, err := f.Issuer.(issue.Rekeyer).Rekey(ctx, current, issue.Request{CSR: csr})
	if err != nil {
		return f.wantKind("rekey with other names", err, activities.Invalid)
	}
	return f.verified(ctx, got, csr)
}
