package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/keyring"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/servicedb"
)

// spent is what one repetition of something took.
type spent struct {
	time          time.Duration
	bytes, allocs float64
}

// alternate measures two things in turns, so many rounds of so many repetitions each.
func alternate(rounds, repetitions int, baseline, subject func()) (a, b spent) {
	for range rounds {
		a = a.add(repeat(repetitions, baseline))
		b = b.add(repeat(repetitions, subject))
	}
	return a.over(rounds * repetitions), b.over(rounds * repetitions)
}

func repeat(repetitions int, act func()) spent {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	for range repetitions {
		act()
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	return spent{took, float64(after.TotalAlloc - before.TotalAlloc), float64(after.Mallocs - before.Mallocs)}
}

func (s spent) add(more spent) spent {
	return spent{s.time + more.time, s.bytes + more.bytes, s.allocs + more.allocs}
}

func (s spent) over(n int) spent {
	return spent{s.time / time.Duration(n), s.bytes / float64(n), s.allocs / float64(n)}
}

// codecCost compares Temporal's converter with and without castellan's codec behind it.
func codecCost(t testing.TB) []row {
	path := filepath.Join(t.TempDir(), "keyring")
	if err := keyring.Create(path); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	sealing, err := codec.New(ring, "castellan")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 510) // 512 with its quotes
	size := 0
	through := func(c converter.DataConverter) func() {
		return func() {
			payload, err := c.ToPayload(text)
			if err != nil {
				t.Fatal(err)
			}
			size = proto.Size(payload)
			var back string
			if err := c.FromPayload(payload, &back); err != nil || back != text {
				t.Fatalf("round trip: %v", err)
			}
		}
	}
	bare, sealed := through(converter.GetDefaultDataConverter()), through(codec.NewDataConverter(sealing))
	bare()
	bareSize := size
	sealed()
	sealedSize := size
	a, b := alternate(10, 2000, bare, sealed)
	return []row{
		{what: "time", baseline: micros(a.time), castellan: micros(b.time), ratio: ratio(float64(b.time), float64(a.time))},
		{what: "allocated", baseline: fmt.Sprintf("%.0f B in %.0f", a.bytes, a.allocs), castellan: fmt.Sprintf("%.0f B in %.0f", b.bytes, b.allocs), ratio: ratio(b.bytes, a.bytes)},
		{what: "size on the wire", baseline: fmt.Sprintf("%d B", bareSize), castellan: fmt.Sprintf("%d B", sealedSize), ratio: ratio(float64(sealedSize), float64(bareSize))},
	}
}

// evidenceCost compares records that are appended one after the other with those of 256 submitters at
// once, which share transactions. Both are projected into the inventory, as in production.
func evidenceCost(t testing.TB) []row {
	dir := t.TempDir()
	path := filepath.Join(dir, "service.db")
	db, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindSQLite, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	place, err := ledger.NewDirectory(filepath.Join(dir, "checkpoints"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := ledger.Open(t.Context(), db, ledger.Options{
		KeyFile: filepath.Join(dir, "ledger.key"), Place: place, Interval: -1, Project: servicedb.Project,
	})
	if err != nil {
		t.Fatal(err)
	}
	const rounds, single, together, submitters = 8, 40, 1024, 256
	written := 0
	submit := func(n int) {
		if _, err := log.Append(t.Context(), "privileged", evidence(n)); err != nil {
			t.Error(err)
		}
	}
	one := func() {
		for range single {
			submit(written)
			written++
		}
	}
	many := func() {
		var group sync.WaitGroup
		for i := range submitters {
			from := written + i*together/submitters
			group.Go(func() {
				for n := from; n < from+together/submitters; n++ {
					submit(n)
				}
			})
		}
		group.Wait()
		written += together
	}
	a, b := alternate(rounds, 1, one, many)
	a, b = a.over(single), b.over(together)
	if err := log.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return []row{
		{what: "time, group of 256", baseline: micros(a.time), castellan: micros(b.time), ratio: ratio(float64(b.time), float64(a.time))},
		{what: "records per second", baseline: perSecond(a.time), castellan: perSecond(b.time), ratio: ratio(float64(a.time), float64(b.time))},
		{what: "database grows by", castellan: fmt.Sprintf("%d B", info.Size()/int64(written))},
	}
}

func perSecond(each time.Duration) string {
	return fmt.Sprintf("%.0f", float64(time.Second)/float64(each))
}

// evidence makes the n-th entry of a plausible log.
func evidence(n int) record.Entry {
	target := fmt.Sprintf("target-%d", n/16)
	entry := record.Entry{
		Workflow: "rotate/" + target, Run: "run-1", Step: fmt.Sprintf("rotate.step%d", n%16/2), Target: target,
		Rotation: activities.NewRotationID(target, 7), Epoch: 7, Phase: record.Intent,
		Reason: "renews at 2/3 of its lifetime", At: time.Date(2026, 3, 1, 10, 0, n, 0, time.UTC),
		Facts: map[string]string{record.FactFingerprint: fmt.Sprintf("%064x", n), record.FactSerial: "340282366920938463463374607431768211455"},
	}
	if n%2 == 1 {
		entry.Phase, entry.Result = record.Outcome, "ok"
		entry.Facts[record.FactState] = string(activities.Minted)
	}
	return entry
}

// sweepCost compares the query of the sweep on a small inventory and on one of a hundred times its size
// with as many due.
func sweepCost(t testing.TB) []row {
	now := time.Now()
	inventory := func(all int) func() {
		db, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindSQLite, Path: filepath.Join(t.TempDir(), "service.db")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		var declared []servicedb.DeclaredTarget
		for i := range all {
			// The due ones are spread over the inventory by name, as in life.
			declared = append(declared, servicedb.DeclaredTarget{Name: fmt.Sprintf("%08x", uint32(i)*2654435761), Kind: "certificate"})
		}
		for _, stage := range []struct {
			count int
			due   time.Time
		}{{dueTargets, now.Add(-time.Hour)}, {all, now.Add(24 * time.Hour)}} {
			if _, err := db.ApplyInventory(t.Context(), declared[:stage.count], stage.due); err != nil {
				t.Fatal(err)
			}
		}
		return func() {
			if found, _, err := db.Due(t.Context(), now, dueTargets, ""); err != nil || len(found) != dueTargets {
				t.Fatalf("%d of %d targets are due, want %d: %v", len(found), all, dueTargets, err)
			}
		}
	}
	small, large := inventory(dueTargets), inventory(100*dueTargets)
	small()
	large()
	a, b := alternate(20, 25, small, large)
	return []row{{what: "time of the query", baseline: micros(a.time), castellan: micros(b.time), ratio: ratio(float64(b.time), float64(a.time)), aim: "about 1"}}
}

// dueTargets is how many targets are due, whatever the size of the inventory.
const dueTargets = 100
