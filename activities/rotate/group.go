package rotate

import (
	"context"
	"encoding/json"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

// lease is the document of an exclusion group: which member rotates, and when the members last began.
type lease struct {
	Holder string               `json:"holder,omitempty"`
	Began  map[string]time.Time `json:"began,omitempty"`
}

// groups keeps members of an exclusion group from rotating together.
type groups struct {
	store store.Store
	heads heads
	now   func() time.Time
}

func (g groups) read(ctx context.Context, group string) (lease, store.Version, error) {
	document, err := g.store.Read(ctx, "groups/"+group)
	if err != nil && activities.KindOf(err) == activities.NotFound {
		return lease{Began: map[string]time.Time{}}, 0, nil
	}
	if err != nil {
		return lease{}, 0, err
	}
	held := lease{}
	if err := json.Unmarshal(document.Value, &held); err != nil {
		return lease{}, 0, activities.Errorf(activities.Invalid, "read exclusion group %q: %w", group, err)
	}
	if held.Began == nil {
		held.Began = map[string]time.Time{}
	}
	return held, document.Version, nil
}

// look says which other member holds the group, and when another member last began.
func (g groups) look(ctx context.Context, group, target string) (holder string, last time.Time, lastMember string, err error) {
	if group == "" {
		return "", time.Time{}, "", nil
	}
	held, _, err := g.read(ctx, group)
	if err != nil {
		return "", time.Time{}, "", err
	}
	for member, began := range held.Began {
		if member != target && began.After(last) {
			last, lastMember = began, member
		}
	}
	holder, err = g.holding(ctx, held, target)
	return holder, last, lastMember, err
}

// holding returns the member that holds the group, unless it is the target itself or its rotation is
// over: a holder that crashed before giving the group back must not block the others for ever. Nor must
// one that was asked to stop before publishing: nobody knows when it will be told to go on.
func (g groups) holding(ctx context.Context, held lease, target string) (string, error) {
	if held.Holder == "" || held.Holder == target {
		return "", nil
	}
	head, _, err := g.heads.read(ctx, held.Holder)
	if err != nil {
		return "", err
	}
	justTaken := g.now().Sub(held.Began[held.Holder]) < time.Minute // taken, and its head is about to be written
	if head.Open() && !head.parked() || justTaken && head.Updated.Before(held.Began[held.Holder]) {
		return held.Holder, nil
	}
	return "", nil
}

// take makes the target the group's holder. The policy has seen the holder that is named and decided to
// go on beside it, or none is; anybody else has come in between, and the target has to ask again.
func (g groups) take(ctx context.Context, group, target, beside string) error {
	if group == "" {
		return nil
	}
	held, version, err := g.read(ctx, group)
	if err != nil {
		return err
	}
	holder, err := g.holding(ctx, held, target)
	if err != nil {
		return err
	}
	if holder != "" && holder != beside {
		return activities.Errorf(activities.Conflict, "exclusion group %q: %q rotates now", group, holder)
	}
	held.Holder = target
	held.Began[target] = g.now().UTC()
	value, err := json.Marshal(held)
	if err != nil {
		return activities.Errorf(activities.Invalid, "encode exclusion group %q: %w", group, err)
	}
	_, err = g.store.Write(ctx, "groups/"+group, value, version)
	return err
}
