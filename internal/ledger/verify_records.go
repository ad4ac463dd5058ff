package ledger

import (
	"encoding/hex"
	"strings"

	"castellan.dev/activities/record"

	"golang.org/x/mod/sumdb/tlog"
)

// idPrefix is the first half of an id: enough to tell records apart, and half the memory.
type idPrefix [16]byte

func prefixOf(entry record.Entry) idPrefix {
	raw, _ := hex.DecodeString(ID(entry)) // our own hex
	return idPrefix(raw)
}

// openIntent is an intent whose outcome has not come yet.
type openIntent struct {
	index int64
	entry record.Entry
}

// jump is a record that does not stand where it belongs. The record after it tells what happened.
type jump struct {
	want, got int64
	id        string
}

// record checks one record.
func (v *verifier) record(line exportLine) {
	leaf := tlog.RecordHash(line.Record)
	r, err := decodeRecord(line.Record)
	if err != nil || r.Version != version {
		v.report.problem(Malformed, v.next, v.next, "", "line %d, where record %d belongs, is no record of version %s", v.lines.number, v.next, version)
		v.next++
		v.grow(v.next-1, "", leaf, line.Hashes)
		return
	}
	v.order(r.Index, r.ID)
	if !isCanonical(line.Record, r) {
		v.report.problem(Edited, r.Index, r.Index, r.ID, "record %d (%s) is not in canonical form", r.Index, r.ID)
	}
	if r.ID != ID(r.Entry) {
		v.report.problem(Edited, r.Index, r.Index, r.ID, "record %d (%s) does not have the id of its workflow, step, epoch and phase", r.Index, r.ID)
	}
	v.grow(r.Index, r.ID, leaf, line.Hashes)
	v.unique(r)
	if r.Received.Before(v.received) {
		v.report.finding(ClockBackward, r.Index, r.ID, "record %d was received at %s, before the one before it", r.Index, r.Received)
	}
	v.received = r.Received
	if r.Entry.Workflow == systemWorkflow {
		v.keyRecord(r)
	}
	v.settle(r)
}

// order checks that the record stands where it belongs.
func (v *verifier) order(index int64, id string) {
	if v.jump != nil {
		if index == v.jump.got+1 {
			v.gap()
			v.next = index + 1
			return
		}
		v.displaced()
	}
	if index != v.next {
		v.jump = &jump{v.next, index, id}
		v.treeless = true
	}
	v.next++
}

// gap reports that the log went on from another place.
func (v *verifier) gap() {
	j := *v.jump
	v.jump = nil
	if j.got > j.want {
		v.report.problem(Missing, j.want, j.got-1, "", "records %d to %d are missing", j.want, j.got-1)
		return
	}
	v.report.problem(Displaced, j.got, j.got, j.id, "record %d (%s) stands where record %d belongs, and those after it follow", j.got, j.id, j.want)
}

// displaced reports that one record stood in the place of another.
func (v *verifier) displaced() {
	j := *v.jump
	v.jump = nil
	v.report.problem(Displaced, j.want, j.want, j.id, "record %d (%s) stands where record %d belongs", j.got, j.id, j.want)
}

// settleJump reports a jump that nothing follows.
func (v *verifier) settleJump() {
	switch {
	case v.jump == nil:
	case v.jump.got > v.jump.want:
		v.next = v.jump.got + 1
		v.gap()
	default:
		v.displaced()
	}
}

// unique checks that the id has not occurred before.
func (v *verifier) unique(r Record) {
	prefix := prefixOf(r.Entry)
	if before, found := v.ids[prefix]; found {
		v.report.problem(Duplicated, r.Index, r.Index, r.ID, "record %d (%s) has the id of record %d", r.Index, r.ID, before)
		return
	}
	v.ids[prefix] = r.Index
}

// settle pairs intents with outcomes. An outcome that failed may carry its result at the end of the step's
// name, so that a later success is not taken for a repetition.
func (v *verifier) settle(r Record) {
	switch r.Entry.Phase {
	case record.Intent:
		v.open[prefixOf(r.Entry)] = openIntent{r.Index, r.Entry}
	case record.Outcome:
		intent := r.Entry
		intent.Phase = record.Intent
		exact := prefixOf(intent)
		intent.Step = strings.TrimSuffix(intent.Step, "/"+intent.Result)
		trimmed := prefixOf(intent)
		delete(v.open, exact)
		delete(v.open, trimmed)
		_, found := v.ids[exact]
		_, foundTrimmed := v.ids[trimmed]
		if !found && !foundTrimmed && v.header.From == 0 {
			v.report.finding(LoneOutcome, r.Index, r.ID, "record %d is an outcome of %s for %s whose intent was not recorded", r.Index, r.Entry.Step, r.Entry.Workflow)
		}
	}
}

// concludeIntents reports intents that stayed open.
func (v *verifier) concludeIntents() {
	for _, intent := range v.open {
		v.report.finding(OpenIntent, intent.index, ID(intent.entry), "record %d announces %s for %s and no outcome was recorded", intent.index, intent.entry.Step, intent.entry.Workflow)
	}
}

// keyRecord checks that what the log records about its keys is what the header says.
func (v *verifier) keyRecord(r Record) {
	switch {
	case r.Submitter != systemActor:
		v.report.problem(Edited, r.Index, r.Index, r.ID, "record %d (%s) speaks for the ledger and was submitted by %q", r.Index, r.ID, r.Submitter)
	case r.Entry.Step == stepBegin:
		if r.Index != 0 || r.Entry.Facts[factKey] != v.chain.links[0].key.text || r.Entry.Facts[factOrigin] != v.header.Origin {
			v.report.problem(Resigned, r.Index, r.Index, r.ID, "record %d (%s) begins another log than the header, with the key %s", r.Index, r.ID, r.Entry.Facts[factKey])
		}
	case r.Entry.Step == stepKeyChange:
		at := int(min(r.Entry.Epoch, 1<<30))
		if at == 0 || at >= len(v.chain.links) || v.chain.links[at].since != r.Index || v.chain.links[at].note != r.Entry.Facts[factNote] {
			v.report.problem(Resigned, r.Index, r.Index, r.ID, "record %d (%s) is a key change that the header does not know", r.Index, r.ID)
			return
		}
		v.seen++
	}
}

// concludeKeys checks that each key change within the range is a record.
func (v *verifier) concludeKeys() {
	var want int64
	for _, link := range v.chain.links[1:] {
		if link.since >= v.header.From && link.since < v.next {
			want++
		}
	}
	if want != v.seen && v.report.OK() {
		v.report.problem(Resigned, -1, -1, "", "the header names %d key changes within these records, recorded are %d", want, v.seen)
	}
	if _, found := v.ids[prefixOf(record.Entry{Workflow: systemWorkflow, Step: stepBegin, Phase: record.Fact})]; !found && v.header.From == 0 && v.report.OK() {
		v.report.problem(Missing, 0, 0, "", "the record that begins the log is missing")
	}
}
