package ledger

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"castellan.dev/internal/servicedb"
)

// largeSize is the size of log that the design asks for.
const largeSize = 100_000

// A hundred thousand records are appended, exported, verified as a stream, and one is found that was
// changed.
func TestAHundredThousandRecords(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	began := time.Now()
	fill(t, l, 0, largeSize)
	appended := time.Since(began)
	path := filepath.Join(f.dir, "export")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if err := l.Export(t.Context(), file, Range{}); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	exported := time.Since(began)
	options := VerifyOptions{Key: l.PublicKey().public, Checkpoints: []Checkpoint{checkpoint(t, l)}}
	report, took, memory := verifyFile(t, path, options)
	if !report.Complete() || report.Size != largeSize+1 || len(report.Findings) != 0 {
		t.Errorf("got %d records, problems %v, %d findings, not checked %v", report.Size, report.Problems, len(report.Findings), report.NotChecked)
	}
	if memory > 256<<20 {
		t.Errorf("verification allocated %d MiB at once, want a stream", memory>>20)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records: appended in %v, exported in %v (%d MiB), verified in %v with %d MiB", largeSize,
		appended.Round(time.Millisecond), exported.Round(time.Millisecond), info.Size()>>20, took.Round(time.Millisecond), memory>>20)

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := replaced(text, `"workflow":"rotate/target-34567"`, `"workflow":"rotate/target-34566"`)
	at := bytes.Index(text, []byte(`"workflow":"rotate/target-34567"`))
	index := int64(bytes.Count(text[:at], []byte("\n"))) - int64(bytes.Count(text[:at], []byte("\n{\"checkpoint\""))) - 1
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	report, _, _ = verifyFile(t, path, options)
	if got, found := report.First(); !found || got.First != index || got.What != Edited {
		t.Errorf("got %+v, want record %d named", got, index)
	}
}

// verifyFile verifies a file and returns how long it took and how far the heap grew.
func verifyFile(t *testing.T, path string, options VerifyOptions) (*Report, time.Duration, uint64) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	report, err := Verify(file, options)
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	return report, took, max(after.HeapSys, before.HeapSys) - before.HeapSys + after.HeapInuse - min(after.HeapInuse, before.HeapInuse)
}

// benchLedger opens a ledger outside of a test's cleanup order.
func benchLedger(b *testing.B) *Ledger {
	b.Helper()
	return newFixture(b, servicedb.Config{}).open(b)
}

func BenchmarkAppendAlone(b *testing.B) {
	l := benchLedger(b)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := l.Append(b.Context(), "privileged", entry(n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

func BenchmarkAppendTogether(b *testing.B) {
	l := benchLedger(b)
	b.ReportAllocs()
	b.ResetTimer()
	b.SetParallelism(128)
	numbers := make(chan int, 1024)
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			select {
			case numbers <- n:
			case <-ctx.Done():
			}
		}
	}()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Append(ctx, "privileged", entry(<-numbers)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkEncodeRecord(b *testing.B) {
	e := entry(1)
	r := Record{version, ID(e), 1, start, "privileged", e}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyRecord(b *testing.B) {
	l := benchLedger(b)
	for n := range 2000 {
		go l.Append(b.Context(), "privileged", entry(n))
	}
	for {
		head, err := l.Head(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if head.Size == 2001 {
			break
		}
	}
	text := export(b, l, Range{})
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N/2001 + 1 {
		if report := verify(b, text, VerifyOptions{}); !report.OK() {
			b.Fatal(report.Problems)
		}
	}
}

func BenchmarkProveRecord(b *testing.B) {
	l := benchLedger(b)
	if _, err := l.Append(b.Context(), "privileged", entry(0)); err != nil {
		b.Fatal(err)
	}
	id := ID(entry(0))
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Prove(b.Context(), io.Discard, id); err != nil {
			b.Fatal(err)
		}
	}
}
