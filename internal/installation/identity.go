package installation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"castellan.dev/internal/api"
	"castellan.dev/internal/identity"
)

// IdentityLife is how long production's identities live: long enough for a person's command line to
// survive a weekend, since it renews its own only when it is used.
const IdentityLife = 7 * 24 * time.Hour

// IdentityDir is where the process finds castellan's own identities.
func (i *Installation) IdentityDir() string {
	if i.Config.API.IdentityDir != "" {
		return i.Config.API.IdentityDir
	}
	return i.Dir.Identity()
}

// MakeAuthority opens the authority of castellan's own identities, and makes it where there is none.
func (i *Installation) MakeAuthority() (*identity.Authority, error) {
	return identity.OpenAuthority(identity.AuthorityConfig{Dir: i.IdentityDir(), Life: IdentityLife, Now: i.Now})
}

// Authority opens the authority of castellan's own identities; nil where none lives. A castellan-dev
// keeps its own to itself.
func (i *Installation) Authority() (*identity.Authority, error) {
	if i.Endpoints != nil {
		return nil, nil
	}
	if held, err := identity.HoldsAuthority(i.IdentityDir()); err != nil || !held {
		return nil, err
	}
	return i.MakeAuthority()
}

// Identity opens one of castellan's own identities. Beside a castellan-dev somebody else renews its
// files. Otherwise `castellan serve` renews its own by the authority that it holds, and everybody else
// asks castellan serve; [Installation.Renew] is the loop.
func (i *Installation) Identity(ctx context.Context, name string) (*identity.Source, error) {
	if source, ok := i.identities[name]; ok {
		return source, nil
	}
	source, err := i.openIdentity(ctx, name)
	if errors.Is(err, fs.ErrNotExist) && i.Endpoints == nil {
		return nil, fmt.Errorf("%w: make it with `castellan identity init` on the machine of castellan serve", err)
	}
	if err != nil {
		return nil, err
	}
	if i.identities == nil {
		i.identities = map[string]*identity.Source{}
	}
	i.identities[name] = source
	return source, nil
}

func (i *Installation) openIdentity(ctx context.Context, name string) (*identity.Source, error) {
	c := identity.SourceConfig{Name: name, Files: identity.FilesIn(i.IdentityDir(), name), Now: i.Now, Logger: i.Logger}
	if i.Endpoints != nil {
		return identity.NewSource(ctx, c)
	}
	if name == identity.Serve {
		authority, err := i.Authority()
		if err != nil {
			return nil, err
		}
		if authority != nil {
			c.Renewer = authority.Renewer(name)
		}
		return identity.NewSource(ctx, c)
	}
	url, err := i.apiURL()
	if err != nil { // nobody can be asked: somebody else renews the files
		return identity.NewSource(ctx, c)
	}
	var source *identity.Source
	c.Remote = true
	c.Renewer = func(ctx context.Context, request []byte) (identity.Issued, error) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		// A connection of its own each time: the server judges the certificate of the handshake.
		transport := &http.Transport{TLSClientConfig: source.TLSClient(identity.Serve), DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second}
		return api.NewClient(url, &http.Client{Transport: transport}).RenewIdentity(ctx, request)
	}
	source, err = identity.NewSource(ctx, c)
	return source, err
}

// Renew keeps the identities that were opened fresh until the context ends.
func (i *Installation) Renew(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, source := range i.identities {
		group.Go(func() error { return source.Run(ctx) })
	}
	return group.Wait()
}

// http returns a client that shows the named identity to castellan's own servers.
func (i *Installation) http(ctx context.Context, name string) (*http.Client, error) {
	source, err := i.Identity(ctx, name)
	if err != nil {
		return nil, err
	}
	// No timeout of the whole exchange: an export takes as long as it takes. Callers bound it by context.
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: source.TLSClient(identity.Serve), ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute,
	}}, nil
}

// API returns a client of the API as the named identity.
func (i *Installation) API(ctx context.Context, name string) (*api.Client, error) {
	url, err := i.apiURL()
	if err != nil {
		return nil, err
	}
	transport, err := i.http(ctx, name)
	if err != nil {
		return nil, err
	}
	return api.NewClient(url, transport), nil
}

// Refresh renews the named identity if that is due: what a command that is soon over does instead of
// [Installation.Renew]. A certificate that still holds is worth more than the reason why it was not
// renewed, so that is only logged.
func (i *Installation) Refresh(ctx context.Context, name string) error {
	source, err := i.Identity(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = source.Tick(ctx)
	if errors.Is(err, identity.ErrExpired) {
		return err
	}
	if err != nil {
		i.Logger.Debug("identity cannot be renewed", "identity", name, "notAfter", source.NotAfter(), "error", err)
	}
	return nil
}
