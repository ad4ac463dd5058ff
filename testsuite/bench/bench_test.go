package bench

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == roleDev {
		if err := rest(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// BenchmarkCastellan runs every measurement once, one after the other, and prints the table.
func BenchmarkCastellan(b *testing.B) {
	groups := []struct {
		name, title string
		measure     func(testing.TB) []row
	}{
		{"codec", "CODEC: one payload of 512 bytes, encoded and decoded (baseline: JSON without encryption)", codecCost},
		{"evidence", "EVIDENCE: one record, durable in SQLite (baseline: one record per transaction)", evidenceCost},
		{"sweep", "SWEEP: 100 due targets among 10,000 (baseline: 100 due among 100)", sweepCost},
		{"latency", "LATENCY: one start at a time (baseline: plain start, then activity, on an untuned server)", latency},
		{"rotations", "ROTATIONS: real ones (baseline: a workflow of eight activities that do nothing, on the same server)", rotations},
		{"memory", "MEMORY of castellan-dev at rest, in a process of its own", memory},
	}
	began := time.Now()
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s, %s/%s, %d processors, load %s before", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), load())
	for _, group := range groups {
		b.Run(group.name, func(b *testing.B) {
			table(&out, group.title, group.measure(b))
			b.ReportMetric(0, "ns/op") // the table says it
		})
	}
	fmt.Fprintf(&out, "\nmeasured in %s; load %s after\n", time.Since(began).Round(time.Second), load())
	fmt.Print(out.String())
}
