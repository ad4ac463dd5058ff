package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"castellan.dev/internal/servicedb"
)

// serviceDBChildVariable hands a child process the database to write to.
const serviceDBChildVariable = "CASTELLAN_TEST_SERVICEDB_CHILD"

// ServiceDBChild turns the test binary into the process that the crash test kills. It returns at once when the
// binary was started for anything else; TestMain calls it first.
func ServiceDBChild() {
	text, set := os.LookupEnv(serviceDBChildVariable)
	if !set {
		return
	}
	var config servicedb.Config
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
	if err := writeForever(context.Background(), config); err != nil {
		fmt.Println("child:", err)
	}
	os.Exit(1)
}

// writeForever commits pairs of rows, and says each number once it is committed.
func writeForever(ctx context.Context, config servicedb.Config) error {
	db, err := servicedb.Open(ctx, config)
	if err != nil {
		return err
	}
	defer db.Close()
	for n := 1; ; n++ {
		err := db.Tx(ctx, func(tx *servicedb.Tx) error {
			for _, half := range []string{"left", "right"} {
				if _, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule, last_success_at) VALUES (?, ?)`, fmt.Sprintf("%s-%d", half, n), n); err != nil {
					return err
				}
				fmt.Println("inside", n, half)
			}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Println("committed", n)
	}
}

// crash kills a writing process with SIGKILL: between two statements of a transaction, and at moments of
// nobody's choice.
func (s *serviceDB) crash() {
	committed := 0
	for round, until := range []string{"inside 1 left", "inside 3 right", "committed 5", "inside 20 left", "inside 33 right"} {
		s.exec(`DELETE FROM schedule_successes`)
		committed = s.killWriter(until)
		rows, err := s.open().Successes(s.Context())
		s.must(err)
		seen := map[string]bool{}
		for _, row := range rows {
			seen[row.Schedule] = true
		}
		pairs := 0
		for n := 1; seen["left-"+strconv.Itoa(n)] || seen["right-"+strconv.Itoa(n)]; n++ {
			if !seen["left-"+strconv.Itoa(n)] || !seen["right-"+strconv.Itoa(n)] {
				s.Errorf("round %d: transaction %d is there by half", round, n)
			}
			pairs = n
		}
		// The one that was in flight may have been committed without anybody being told.
		if pairs < committed || pairs > committed+1 || len(rows) != 2*pairs {
			s.Errorf("round %d: %d transactions and %d rows are there, %d were acknowledged", round, pairs, len(rows), committed)
		}
		if s.db.Dialect == servicedb.SQLite {
			var verdict string
			s.must(s.db.QueryRow(s.Context(), `PRAGMA integrity_check`).Scan(&verdict))
			s.same("integrity check", "ok", verdict)
		}
	}
}

// killWriter starts a writing process, kills it when it has said a line, and returns the number of the last
// transaction that it said was committed.
func (s *serviceDB) killWriter(until string) (committed int) {
	s.Helper()
	config, err := json.Marshal(s.config)
	s.must(err)
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), serviceDBChildVariable+"="+string(config))
	out, err := child.StdoutPipe()
	s.must(err)
	s.must(child.Start())
	reached := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		if number, is := strings.CutPrefix(line, "committed "); is {
			committed, err = strconv.Atoi(number)
			s.must(err)
		}
		if strings.HasPrefix(line, "child:") {
			s.Errorf("%s", line)
		}
		if line == until && !reached {
			reached = true
			s.must(child.Process.Kill())
		}
	}
	if err := child.Wait(); err == nil || !reached {
		s.Fatalf("the child ended by itself before %q: %v", until, err)
	}
	return committed
}
