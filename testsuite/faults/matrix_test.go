package faults

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// matrix says how many cases run: ci takes a subset that fits `make test`, full takes all.
var matrix = flag.String("matrix", "ci", "ci or full")

// only narrows the matrix to cases whose name contains a text.
var only = flag.String("only", "", "run only cases whose name contains this text")

// inCI reports whether a case belongs to the subset.
func inCI(c *trial) bool {
	switch c.fault {
	case "killed-after", "zombie":
		return c.step == "mint" || c.step == "set" || c.step == "publish" || c.step == "rollback"
	case "killed-before":
		return c.step == "publish" || c.step == "retire"
	case "reset", "terminated":
		return c.step == "set"
	case "rescued":
		return c.step == "publish"
	case "engine-killed", "twice":
		return c.step == "publish"
	}
	return true
}

// TestMatrix runs the cases and prints the table.
func TestMatrix(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Minute)
	defer cancel()
	list := slices.DeleteFunc(cases(t), func(c *trial) bool {
		if c.target == "t00" {
			return false // others borrow its certificate
		}
		return *matrix != "full" && !inCI(c) || !strings.Contains(c.name(), *only)
	})
	l := newLab(ctx, t, list)
	defer l.stopDev()
	results := make(map[*trial][]string, len(list))
	var mu sync.Mutex
	run := func(c *trial) {
		ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
		defer cancel()
		begun := time.Now()
		violations := c.run(ctx, t)
		mu.Lock()
		defer mu.Unlock()
		results[c] = violations
		t.Logf("%-45s %5.1fs %d violations", c.name(), time.Since(begun).Seconds(), len(violations))
	}
	// Cases that disturb nobody else run side by side; the others have castellan-dev to themselves.
	slots := make(chan struct{}, 3)
	var together sync.WaitGroup
	for i, c := range list {
		if c.alone {
			continue
		}
		if i == 0 { // others borrow its certificate
			run(c)
			continue
		}
		slots <- struct{}{}
		together.Go(func() {
			run(c)
			<-slots
		})
	}
	together.Wait()
	for _, c := range list {
		if c.alone {
			run(c)
		}
	}
	report(t, list, results)
}

// report prints the table and the closing line.
func report(t *testing.T, list []*trial, results map[*trial][]string) {
	table := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "STEP\tFAULT\tDELIVERY\tRELOAD\tPROBES\tFAILED\tRESULT")
	total := 0
	for _, c := range list {
		samples, failures, _ := 0, []string(nil), []string(nil)
		if c.probe != nil {
			samples, failures, _ = c.probe.read()
		}
		result := "ok"
		for i, violation := range results[c] {
			if i == 0 {
				result = violation
			}
			t.Errorf("%s: %s", c.name(), violation)
			total++
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", c.step, c.fault, c.layout, c.reload, samples, len(failures), result)
	}
	table.Flush()
	fmt.Println("not run: rollout and systemd reloads, and client certificates (their own packages have fault tests); triples of step, fault and delivery kind beyond the pairs above")
	fmt.Printf("faults: %d cases, %d violations\n", len(list), total)
}
