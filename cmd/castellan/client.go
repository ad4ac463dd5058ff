package main

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/config"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
)

// client returns a client of the installation's API, as the operator.
func (f *flags) client(ctx context.Context) (*api.Client, error) {
	i, err := f.find()
	if err != nil {
		return nil, err
	}
	client, err := i.API(ctx, identity.Operator)
	if err == nil {
		err = i.Refresh(ctx, identity.Operator)
	}
	if errors.Is(err, identity.ErrExpired) {
		return nil, err
	}
	if err != nil {
		return nil, withHint(err, "is this the right --state directory or --config file?")
	}
	return client, nil
}

// find locates the installation. A castellan-dev that was started with a configuration from elsewhere
// leaves none in its state directory; its addresses there are enough to talk to it.
func (f *flags) find() (*installation.Installation, error) {
	dir, err := f.dir()
	if err != nil {
		return nil, err
	}
	_, missing := os.Stat(dir.Config())
	if f.config != "" || !errors.Is(missing, fs.ErrNotExist) {
		return f.open()
	}
	endpoints, err := dir.Endpoints()
	if err != nil {
		return nil, withHint(err, "in production, name the configuration with --config")
	}
	logger, err := f.logger()
	if err != nil {
		return nil, err
	}
	return &installation.Installation{Config: new(config.Config), Dir: dir, Endpoints: &endpoints, Logger: logger, Now: time.Now}, nil
}

// explained adds what to do about an error of the API where that is known.
func explained(err error) error {
	var hint hintError
	if err == nil || errors.As(err, &hint) {
		return err
	}
	var own *activities.Error
	if !errors.As(err, &own) {
		return err
	}
	switch own.Kind {
	case activities.Transient:
		return withHint(err, "is castellan serve, or castellan-dev, running there?")
	case activities.Denied:
		return withHint(err, "only the identity \"operator\" may act; see api.identityDir in the configuration")
	}
	return err
}

// pages follows the cursor until there is no more or the limit is reached; a limit of zero is none.
func pages[T any](ctx context.Context, query url.Values, limit int, list func(context.Context, url.Values) (api.List[T], error)) (api.List[T], error) {
	all := api.List[T]{Items: []T{}}
	query.Set("limit", "500")
	for {
		page, err := list(ctx, query)
		if err != nil {
			return all, err
		}
		all.Items = append(all.Items, page.Items...)
		if limit > 0 && len(all.Items) >= limit {
			all.Items = all.Items[:limit]
			return all, nil
		}
		if page.Cursor == "" {
			return all, nil
		}
		query.Set("cursor", page.Cursor)
	}
}

// filters builds a query from flags; empty values are left out.
func filters(pairs ...string) url.Values {
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	return query
}
