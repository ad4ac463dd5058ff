package ledger

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"castellan.dev/internal/servicedb"
)

// childVariable tells the test binary to be the process that is killed: database kind, path or DSN file,
// directory, and the first entry to append.
const childVariable = "CASTELLAN_LEDGER_CHILD"

// appendUntilKilled is the child: it appends from several goroutines and prints the number of each entry
// that was acknowledged.
func appendUntilKilled() {
	arguments := strings.Split(os.Getenv(childVariable), "|")
	if len(arguments) != 4 {
		return
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	config := servicedb.Config{Kind: arguments[0]}
	if config.Kind == servicedb.KindPostgres {
		config.DSNFile = arguments[1]
	} else {
		config.Path = arguments[1]
	}
	db, err := servicedb.Open(ctx, config)
	fail(err)
	place, err := NewDirectory(arguments[2] + "/checkpoints")
	fail(err)
	l, err := Open(ctx, db, Options{KeyFile: arguments[2] + "/ledger.key", Place: place, Interval: 1e6})
	fail(err)
	first, err := strconv.Atoi(arguments[3])
	fail(err)
	const workers = 8
	for worker := range workers {
		go func() {
			for n := first + worker; ; n += workers {
				_, err := l.Append(ctx, "privileged", entry(n))
				fail(err)
				fmt.Println(n)
			}
		}()
	}
	select {}
}

// runUntilKilled starts the child, kills it with SIGKILL after it has acknowledged some entries, and
// returns the acknowledged ones.
func runUntilKilled(t *testing.T, f *fixture, first, count int) []int {
	t.Helper()
	database := f.config.Path
	if f.config.Kind == servicedb.KindPostgres {
		database = f.config.DSNFile
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+strings.Join([]string{f.config.Kind, database, f.dir, strconv.Itoa(first)}, "|"))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []int
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatalf("the child said %q", lines.Text())
		}
		acknowledged = append(acknowledged, n)
		if len(acknowledged) == count {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	return acknowledged
}

func testKilledWriterLosesNothingThatItAcknowledged(t *testing.T, config servicedb.Config) {
	f := newFixture(t, config)
	f.options.Now = nil
	var acknowledged []int
	for round := range 5 {
		acknowledged = append(acknowledged, runUntilKilled(t, f, round*10_000, 40+round*37)...)
	}
	l := f.open(t)
	head, err := l.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range acknowledged {
		if receipt := mustAppend(t, l, entry(n))[0]; !receipt.Repeated {
			t.Errorf("entry %d was acknowledged and is lost", n)
		}
	}
	after, err := l.Head(t.Context())
	if err != nil || after.Size != head.Size {
		t.Errorf("got %d records (%v), want still %d", after.Size, err, head.Size)
	}
	last, _, err := f.place(t).Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report := verify(t, export(t, l, Range{}), VerifyOptions{Key: l.chain.links[0].key.public, Checkpoints: []Checkpoint{last}})
	if !report.Complete() {
		t.Errorf("problems %v, not checked %v", report.Problems, report.NotChecked)
	}
}
