package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
	"castellan.dev/testsuite/leak"
)

// StoreFixture is a store under test and what else the suite may use of it.
type StoreFixture struct {
	Store store.Store

	// Prefix precedes every name that the suite uses, so that tests can share one server. Where it is
	// not empty it ends with "/".
	Prefix string

	// Reopen returns another store on the same data, as another worker has it. It is also used to look
	// at the data after a writer was killed.
	Reopen func(t *testing.T) store.Store

	// Spec tells a child process how to open the same data; see StoreChild. Empty: no test with other
	// processes.
	Spec string

	// Dirs hold the data at rest, to be searched for plain text. Empty: the data is out of reach.
	Dirs []string
}

// RunStore checks that an implementation keeps the contract of package store. Every check opens a
// fixture of its own.
func RunStore(t *testing.T, open func(t *testing.T) StoreFixture) {
	checks := []struct {
		name  string
		check func(*testing.T, StoreFixture)
	}{
		{"absent documents are not found", storeAbsent},
		{"values come back as written", storeValues},
		{"a write needs the latest version", storeCheckAndSet},
		{"versions are kept and listed in order", storeVersions},
		{"erased values are gone and their numbers stay taken", storeErase},
		{"lists give names by prefix", storeList},
		{"invalid names are refused", storeNames},
		{"one of many concurrent writers wins", storeConcurrent},
		{"concurrent increments lose nothing", storeIncrements},
		{"a lost reply can be cleared up by reading", storeLostReply},
		{"a cancelled call changes nothing", storeCancelled},
		{"another store sees every write", storeReopened},
		{"nothing is plain at rest", storePlain},
		{"one of many writing processes wins", storeProcesses},
		{"a killed writer loses and tears nothing", storeKilledWriter},
		{"a killed eraser leaves whole or erased versions", storeKilledEraser},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func storeAbsent(t *testing.T, f StoreFixture) {
	name := f.Prefix + "absent"
	_, err := f.Store.Read(t.Context(), name)
	wantStoreKind(t, "read", err, activities.NotFound)
	for _, version := range []store.Version{0, 1, 7} {
		_, err = f.Store.ReadVersion(t.Context(), name, version)
		wantStoreKind(t, fmt.Sprintf("read version %d", version), err, activities.NotFound)
	}
	if versions, err := f.Store.Versions(t.Context(), name); err != nil || len(versions) != 0 {
		t.Errorf("versions: got %v, %v, want none", versions, err)
	}
	if names, err := f.Store.List(t.Context(), name); err != nil || len(names) != 0 {
		t.Errorf("list: got %v, %v, want none", names, err)
	}
}

func storeValues(t *testing.T, f StoreFixture) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for name, value := range map[string][]byte{
		"empty":              {},
		"text":               []byte("value"),
		"binary":             every,
		"large":              bytes.Repeat(every, 128),
		"deep/er/than.that":  []byte("nested"),
		"deep":               []byte("beside the directory of another"),
		"0-digits_and.dots.": []byte("odd name"),
	} {
		given := slices.Clone(value)
		mustWrite(t, f.Store, f.Prefix+name, given, 0)
		clear(given)
		got, err := f.Store.Read(t.Context(), f.Prefix+name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(got.Value, value) || got.Version != 1 || got.Name != f.Prefix+name || got.Written.IsZero() {
			t.Errorf("%s: got %q version %d with %d bytes at %v, want what was written", name, got.Name, got.Version, len(got.Value), got.Written)
		}
		clear(got.Value)
		if again, err := f.Store.Read(t.Context(), f.Prefix+name); err != nil || !bytes.Equal(again.Value, value) {
			t.Errorf("%s: changing what a read returned changed the store: %v", name, err)
		}
	}
}

func storeCheckAndSet(t *testing.T, f StoreFixture) {
	name := f.Prefix + "cas"
	_, err := f.Store.Write(t.Context(), name, []byte("x"), 1)
	wantStoreKind(t, "first write expecting 1", err, activities.Conflict)
	mustWrite(t, f.Store, name, []byte("one"), 0)
	for _, expected := range []store.Version{0, 2, 1 << 40} {
		_, err := f.Store.Write(t.Context(), name, []byte("x"), expected)
		wantStoreKind(t, fmt.Sprintf("write expecting %d of 1", expected), err, activities.Conflict)
	}
	mustWrite(t, f.Store, name, []byte("two"), 1)
	_, err = f.Store.Write(t.Context(), name, []byte("x"), 1)
	wantStoreKind(t, "write expecting 1 of 2", err, activities.Conflict)
	wantStored(t, f.Store, name, 2, "two")
}

func storeVersions(t *testing.T, f StoreFixture) {
	name := f.Prefix + "history"
	for i := range 12 {
		mustWrite(t, f.Store, name, fmt.Appendf(nil, "value %d", i+1), store.Version(i))
	}
	infos, err := f.Store.Versions(t.Context(), name)
	if err != nil || len(infos) != 12 {
		t.Fatalf("got %d versions, %v, want 12", len(infos), err)
	}
	for i, info := range infos {
		if info.Version != store.Version(i+1) || info.Erased || info.Written.IsZero() {
			t.Errorf("entry %d: got %+v", i, info)
		}
		got, err := f.Store.ReadVersion(t.Context(), name, info.Version)
		if want := fmt.Sprintf("value %d", i+1); err != nil || string(got.Value) != want || got.Version != info.Version {
			t.Errorf("version %d: got version %d, %v, want its own value", info.Version, got.Version, err)
		}
	}
	_, err = f.Store.ReadVersion(t.Context(), name, 13)
	wantStoreKind(t, "read the version after the latest", err, activities.NotFound)
}

func storeErase(t *testing.T, f StoreFixture) {
	name := f.Prefix + "erased"
	for i := range 3 {
		mustWrite(t, f.Store, name, fmt.Appendf(nil, "value %d", i+1), store.Version(i))
	}
	erase := func(version store.Version) {
		t.Helper()
		for range 2 { // idempotent
			if err := f.Store.Erase(t.Context(), name, version); err != nil {
				t.Errorf("erase version %d: %v", version, err)
			}
		}
		_, err := f.Store.ReadVersion(t.Context(), name, version)
		wantStoreKind(t, "read an erased version", err, activities.NotFound)
	}
	erase(2)
	wantStored(t, f.Store, name, 3, "value 3")
	erase(3)
	_, err := f.Store.Read(t.Context(), name)
	wantStoreKind(t, "read with the latest version erased", err, activities.NotFound)
	for _, expected := range []store.Version{0, 1, 2} {
		_, err := f.Store.Write(t.Context(), name, []byte("x"), expected)
		wantStoreKind(t, fmt.Sprintf("write expecting %d after erasing 3", expected), err, activities.Conflict)
	}
	mustWrite(t, f.Store, name, []byte("value 4"), 3)
	wantStored(t, f.Store, name, 4, "value 4")
	infos, err := f.Store.Versions(t.Context(), name)
	if err != nil || len(infos) != 4 {
		t.Fatalf("got %d versions, %v, want 4", len(infos), err)
	}
	for i, want := range []bool{false, true, true, false} {
		if infos[i].Erased != want || infos[i].Version != store.Version(i+1) {
			t.Errorf("version %d: got %+v, want erased %t", i+1, infos[i], want)
		}
	}
	if err := f.Store.Erase(t.Context(), f.Prefix+"absent", 1); err != nil && activities.KindOf(err) != activities.NotFound {
		t.Errorf("erase of an absent document: got %v, want nil or %s", err, activities.NotFound)
	}
}

func storeList(t *testing.T, f StoreFixture) {
	all := []string{"heads/a", "heads/ab", "heads/b", "keys/a", "keys/a/1", "keys/a/2", "keys/ab/1", "keysafe"}
	for _, name := range all {
		mustWrite(t, f.Store, f.Prefix+name, []byte("x"), 0)
	}
	mustWrite(t, f.Store, f.Prefix+"heads/a", []byte("y"), 1)
	for prefix, want := range map[string][]string{
		"":         all,
		"heads/":   {"heads/a", "heads/ab", "heads/b"},
		"heads/a":  {"heads/a", "heads/ab"},
		"keys/a":   {"keys/a", "keys/a/1", "keys/a/2", "keys/ab/1"},
		"keys/a/":  {"keys/a/1", "keys/a/2"},
		"keys":     {"keys/a", "keys/a/1", "keys/a/2", "keys/ab/1", "keysafe"},
		"keysafe":  {"keysafe"},
		"keysafe/": nil,
		"other":    nil,
	} {
		names, err := f.Store.List(t.Context(), f.Prefix+prefix)
		if err != nil {
			t.Errorf("list %q: %v", prefix, err)
		}
		for i := range names {
			names[i] = strings.TrimPrefix(names[i], f.Prefix)
		}
		if !slices.Equal(names, want) {
			t.Errorf("list %q: got %q, want %q", prefix, names, want)
		}
	}
}

func storeNames(t *testing.T, f StoreFixture) {
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "A", "a b", "a\x00b", "a\nb",
		`a\b`, "ä", "a@1", "a:b", "%2e%2e", "a/@00000000000000000001", "~", "a*", strings.Repeat("long/", 4000) + "a",
	} {
		ctx := t.Context()
		_, readErr := f.Store.Read(ctx, name)
		_, versionErr := f.Store.ReadVersion(ctx, name, 1)
		_, writeErr := f.Store.Write(ctx, name, []byte("x"), 0)
		_, versionsErr := f.Store.Versions(ctx, name)
		for act, err := range map[string]error{
			"read": readErr, "read version": versionErr, "write": writeErr, "versions": versionsErr, "erase": f.Store.Erase(ctx, name, 1),
		} {
			if err == nil || activities.KindOf(err) != activities.Invalid {
				t.Errorf("%s %.30q: got %v, want %s", act, name, err, activities.Invalid)
			}
		}
	}
}

func storeConcurrent(t *testing.T, f StoreFixture) {
	stores := handles(t, f)
	for round := range 10 {
		name := fmt.Sprintf("%srace/%d", f.Prefix, round)
		var mu sync.Mutex
		var winners []string
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				value := fmt.Sprintf("writer %d", i)
				version, err := stores[i%len(stores)].Write(t.Context(), name, []byte(value), 0)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners = append(winners, value)
				} else if kind := activities.KindOf(err); kind != activities.Conflict {
					t.Errorf("loser: got %v of kind %s, want %s", err, kind, activities.Conflict)
				}
				if err == nil && version != 1 {
					t.Errorf("winner: got version %d, want 1", version)
				}
			})
		}
		wait.Wait()
		if len(winners) != 1 {
			t.Fatalf("round %d: got %d winners, want 1", round, len(winners))
		}
		for _, s := range stores {
			wantStored(t, s, name, 1, winners[0])
		}
	}
}

func storeIncrements(t *testing.T, f StoreFixture) {
	stores := handles(t, f)
	name := f.Prefix + "counter"
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			for range 10 {
				if _, err := increment(t.Context(), stores[i%len(stores)], name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	wantStored(t, f.Store, name, 40, "40")
}

// increment adds one to the number in a document and returns the version that it wrote.
func increment(ctx context.Context, s store.Store, name string) (store.Version, error) {
	for {
		count := 0
		document, err := s.Read(ctx, name)
		if err == nil {
			_, err = fmt.Sscan(string(document.Value), &count)
		} else if activities.KindOf(err) == activities.NotFound {
			err = nil
		}
		if err != nil {
			return 0, err
		}
		version, err := s.Write(ctx, name, fmt.Appendf(nil, "%d", count+1), document.Version)
		if err == nil || activities.KindOf(err) != activities.Conflict {
			return version, err
		}
	}
}

// deaf loses the acknowledgement of every write, after its effect.
type deaf struct{ store.Store }

func (d deaf) Write(ctx context.Context, name string, value []byte, expected store.Version) (store.Version, error) {
	if _, err := d.Store.Write(ctx, name, value, expected); err != nil {
		return 0, err
	}
	return 0, activities.Errorf(activities.Uncertain, "write document %q: the reply was lost", name)
}

func storeLostReply(t *testing.T, f StoreFixture) {
	name, value := f.Prefix+"lost", []byte("candidate")
	_, err := deaf{f.Store}.Write(t.Context(), name, value, 0)
	wantStoreKind(t, "the lost reply", err, activities.Uncertain)
	// The caller reads and compares, and so finds its own candidate instead of minting a second one.
	got, err := f.Store.Read(t.Context(), name)
	if err != nil || got.Version != 1 || !bytes.Equal(got.Value, value) {
		t.Errorf("read after the lost reply: got version %d, %v, want the candidate", got.Version, err)
	}
	// A caller that repeats blindly is told so and changes nothing.
	_, err = f.Store.Write(t.Context(), name, []byte("second candidate"), 0)
	wantStoreKind(t, "the repeated write", err, activities.Conflict)
	wantStored(t, f.Store, name, 1, string(value))
}

func storeCancelled(t *testing.T, f StoreFixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	name := f.Prefix + "cancelled"
	if _, err := f.Store.Write(ctx, name, []byte("x"), 0); err == nil {
		t.Error("write: want an error")
	}
	mustWrite(t, f.Store, name, []byte("y"), 0)
	if err := f.Store.Erase(ctx, name, 1); err == nil {
		t.Error("erase: want an error")
	}
	if _, err := f.Store.Read(ctx, name); err == nil || errors.Is(err, context.Canceled) && activities.KindOf(err) == activities.NotFound {
		t.Errorf("read: got %v, want an error that is not %s", err, activities.NotFound)
	}
	wantStored(t, f.Store, name, 1, "y")
}

func storeReopened(t *testing.T, f StoreFixture) {
	if f.Reopen == nil {
		t.Skip("this store has no second handle")
	}
	name := f.Prefix + "shared"
	other := f.Reopen(t)
	mustWrite(t, f.Store, name, []byte("one"), 0)
	wantStored(t, other, name, 1, "one")
	mustWrite(t, other, name, []byte("two"), 1)
	wantStored(t, f.Store, name, 2, "two")
	_, err := f.Store.Write(t.Context(), name, []byte("x"), 1)
	wantStoreKind(t, "write behind another handle's back", err, activities.Conflict)
	if err := other.Erase(t.Context(), name, 2); err != nil {
		t.Fatal(err)
	}
	_, err = f.Store.Read(t.Context(), name)
	wantStoreKind(t, "read what another handle erased", err, activities.NotFound)
	wantStored(t, f.Reopen(t), name, 0, "one")
}

func storePlain(t *testing.T, f StoreFixture) {
	if len(f.Dirs) == 0 {
		t.Skip("this store's data at rest is out of reach")
	}
	kept, erased := leak.Random("kept"), leak.Random("erased")
	mustWrite(t, f.Store, f.Prefix+"plain", kept.Value.Reveal(), 0)
	mustWrite(t, f.Store, f.Prefix+"plain", erased.Value.Reveal(), 1)
	if err := f.Store.Erase(t.Context(), f.Prefix+"plain", 2); err != nil {
		t.Fatal(err)
	}
	searched := 0
	for _, dir := range f.Dirs {
		leak.Check(t, []leak.Canary{kept, erased}, leak.Dir(dir))
		if err := leak.Dir(dir)(func(_ string, content []byte) { searched += len(content) }); err != nil {
			t.Error(err)
		}
	}
	if searched < kept.Value.Len() {
		t.Errorf("searched %d bytes at rest: the data is not in %q", searched, f.Dirs)
	}
}

// handles returns the fixture's store and, where it can be had, another on the same data.
func handles(t *testing.T, f StoreFixture) []store.Store {
	stores := []store.Store{f.Store}
	if f.Reopen != nil {
		stores = append(stores, f.Reopen(t))
	}
	return stores
}

func mustWrite(t *testing.T, s store.Store, name string, value []byte, expected store.Version) {
	t.Helper()
	version, err := s.Write(t.Context(), name, value, expected)
	if err != nil {
		t.Fatalf("write %q expecting %d: %v", name, expected, err)
	}
	if version != expected+1 {
		t.Errorf("write %q expecting %d: got version %d", name, expected, version)
	}
}

// wantValue checks the latest version, or version 1 where version is zero.
func wantStored(t *testing.T, s store.Store, name string, version store.Version, want string) {
	t.Helper()
	got, err := s.Read(t.Context(), name)
	if version == 0 {
		version = 1
		got, err = s.ReadVersion(t.Context(), name, 1)
	}
	if err != nil || got.Version != version || string(got.Value) != want {
		t.Errorf("read %q: got version %d with %d bytes, %v, want version %d with its value", name, got.Version, len(got.Value), err, version)
	}
}

func wantStoreKind(t *testing.T, act string, err error, want activities.Kind) {
	t.Helper()
	if err == nil || activities.KindOf(err) != want {
		t.Errorf("%s: got %v, want an error of kind %s", act, err, want)
	}
}
