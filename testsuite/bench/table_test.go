package bench

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// row is one line of the table. Baseline, ratio and aim are empty where there is nothing to compare.
type row struct{ what, baseline, castellan, ratio, aim string }

// table prints a group of rows under a title.
func table(out io.Writer, title string, rows []row) {
	fmt.Fprintf(out, "\n%s\n", title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  what\tbaseline\tcastellan\tratio\taim")
	for _, r := range rows {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", r.what, dash(r.baseline), dash(r.castellan), dash(r.ratio), dash(r.aim))
	}
	w.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// quantile returns the value below which the share q of the samples lies.
func quantile(samples []time.Duration, q float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[int(q*float64(len(sorted)-1))]
}

// millis shows a duration in milliseconds.
func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// micros shows a duration in microseconds.
func micros(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d)/1e3) }

// ratio shows a/b.
func ratio(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}

// load reads the machine's load averages; a loaded machine explains a bad figure.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

func TestQuantileTakesTheMiddleAndTheEnds(t *testing.T) {
	samples := []time.Duration{5, 1, 4, 2, 3}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 3, 1: 5} {
		if got := quantile(samples, q); got != want {
			t.Errorf("quantile %v: got %d, want %d", q, got, want)
		}
	}
	if samples[0] != 5 {
		t.Error("the samples were reordered")
	}
}
