package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

// kept is what a delivery's publications replaced: one document per epoch in the encrypted store.
type kept struct {
	store    store.Store
	delivery string
}

func (k kept) prefix() string { return "previous/" + k.delivery + "/" }

func (k kept) name(epoch activities.Epoch) string { return fmt.Sprintf("%s%d", k.prefix(), epoch) }

// put keeps what the publication of epoch is about to replace. An earlier attempt may have kept it
// already; if somebody changed it since, what is there now is what would come back.
func (k kept) put(ctx context.Context, epoch activities.Epoch, replaced content) error {
	name := k.name(epoch)
	versions, err := k.store.Versions(ctx, name)
	if err != nil {
		return fmt.Errorf("keep previous of epoch %d: %w", epoch, err)
	}
	var latest store.VersionInfo
	if len(versions) > 0 {
		latest = versions[len(versions)-1]
	}
	if latest.Version > 0 && !latest.Erased {
		earlier, err := k.get(ctx, epoch)
		if err != nil {
			return err
		}
		if earlier.same(replaced) {
			return nil
		}
	}
	value, err := json.Marshal(replaced)
	if err != nil {
		return activities.Errorf(activities.Invalid, "keep previous of epoch %d: %w", epoch, err)
	}
	if _, err := k.store.Write(ctx, name, value, latest.Version); err != nil {
		return fmt.Errorf("keep previous of epoch %d: %w", epoch, err)
	}
	return k.erase(ctx, name, versions)
}

// get returns what the publication of epoch replaced. It is NotFound when nothing is kept.
func (k kept) get(ctx context.Context, epoch activities.Epoch) (content, error) {
	document, err := k.store.Read(ctx, k.name(epoch))
	if err != nil {
		return content{}, fmt.Errorf("read previous of epoch %d: %w", epoch, err)
	}
	var c content
	if err := json.Unmarshal(document.Value, &c); err != nil {
		return content{}, activities.Errorf(activities.Failed, "read previous of epoch %d: the document does not decode", epoch)
	}
	if c.leaf = leafOf(c.Chain); c.leaf == nil {
		return content{}, activities.Errorf(activities.Failed, "read previous of epoch %d: the document holds no certificate", epoch)
	}
	return c, nil
}

// eraseUntil erases what the publications up to and including epoch replaced. Earlier ones count: a
// rotation that was rolled back has kept the very key that this one replaced.
func (k kept) eraseUntil(ctx context.Context, epoch activities.Epoch) error {
	names, err := k.store.List(ctx, k.prefix())
	if err != nil {
		return fmt.Errorf("retire previous of epoch %d: %w", epoch, err)
	}
	for _, name := range names {
		of, err := strconv.ParseUint(strings.TrimPrefix(name, k.prefix()), 10, 64)
		if err != nil || activities.Epoch(of) > epoch {
			continue // another delivery below this one's name, or a later epoch
		}
		versions, err := k.store.Versions(ctx, name)
		if err != nil {
			return fmt.Errorf("retire previous of epoch %d: %w", of, err)
		}
		if err := k.erase(ctx, name, versions); err != nil {
			return err
		}
	}
	return nil
}

func (k kept) erase(ctx context.Context, name string, versions []store.VersionInfo) error {
	for _, version := range versions {
		if version.Erased {
			continue
		}
		if err := k.store.Erase(ctx, name, version.Version); err != nil {
			return fmt.Errorf("erase %q: %w", name, err)
		}
	}
	return nil
}
