package ledger

import (
	"encoding/json"

	"golang.org/x/mod/sumdb/tlog"
)

// proof checks the proof of one record.
func (v *verifier) proof(text []byte) {
	var proof proofFile
	if err := json.Unmarshal(text, &proof); err != nil {
		v.report.problem(Malformed, -1, -1, "", "the proof cannot be read: %v", err)
		return
	}
	if _, err := v.lines.next(); err == nil {
		v.report.problem(Malformed, -1, -1, "", "something follows after the proof")
	}
	v.report.Origin = proof.Origin
	if !v.keys(proof.Origin, proof.Key, proof.Changes) {
		return
	}
	r, err := decodeRecord(proof.Record)
	if err != nil || r.Version != version || !isCanonical(proof.Record, r) || r.ID != ID(r.Entry) {
		v.report.problem(Edited, -1, -1, r.ID, "the record is not as the ledger writes it")
	}
	v.report.From, v.report.To = r.Index, r.Index+1
	c, err := ParseCheckpoint(proof.Checkpoint)
	if err != nil {
		v.report.problem(Malformed, -1, -1, "", "the checkpoint cannot be read: %v", err)
		return
	}
	v.report.Size, v.report.Root = c.Size, c.Root.String()
	key, signed := v.signature(c)
	v.report.Key = key.text
	if err := tlog.CheckRecord(proof.Path, c.Size, c.Root, r.Index, tlog.RecordHash(proof.Record)); err != nil {
		v.report.problem(Edited, r.Index, r.Index, r.ID, "record %d (%s) is not under the signed root hash of %d records", r.Index, r.ID, c.Size)
	}
	v.proofOutside(c, signed)
	if v.report.OK() {
		v.report.checked("record %d (%s) is, byte for byte, one of the %d records under the root hash %s", r.Index, r.ID, c.Size, c.Root)
		if v.pinned >= 0 {
			v.report.checked("the checkpoint is signed by %s, which descends from the pinned key through %d key changes", key, len(v.chain.links)-1-v.pinned)
		}
	}
}

// proofOutside compares the proof's checkpoint with those from outside. Only one of the same size can be
// compared without the records.
func (v *verifier) proofOutside(own Checkpoint, signed bool) {
	if len(v.options.Checkpoints) == 0 {
		v.report.notChecked("whether others were shown the same log: no checkpoint from outside was given")
	}
	for _, c := range v.options.Checkpoints {
		switch {
		case !v.trusted(c):
		case c.Size != own.Size || !signed:
			v.report.notChecked("whether the checkpoint of %d records from outside belongs to the same history: that takes an export", c.Size)
		case c.Root != own.Root:
			v.report.problem(Forked, -1, -1, "", "the checkpoint from outside has another root hash over the same %d records", c.Size)
		default:
			v.report.checked("the checkpoint from outside says the same about the same %d records", c.Size)
		}
	}
}
