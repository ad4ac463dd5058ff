package servicedb

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// rotationRow is a row of rotations.
type rotationRow struct {
	rotation, target                           string
	epoch                                      int64
	state                                      string
	stateAt, stateEpoch                        int64
	triggerSource, triggerActor, triggerReason string
	workflow, run                              string
	startedAt, updatedAt, publishedAt, endedAt int64
	candidate                                  string
	candidateAt                                int64
	keyID, previous                            string
	sentence                                   string
	sentenceAt                                 int64
	stragglers                                 string
	stragglersAt                               int64
}

// projectRotation merges the entry into its rotation's row and returns the row as it is now.
func projectRotation(ctx context.Context, tx *Tx, r reading) (*rotationRow, error) {
	row, err := loadRotationRow(ctx, tx, string(r.Rotation))
	if errors.Is(err, sql.ErrNoRows) {
		row = rotationRow{
			rotation: string(r.Rotation), target: r.Target, epoch: epochOf(r.Rotation, r.epoch),
			state: string(activities.Planned), startedAt: r.at,
		}
	} else if err != nil {
		return nil, err
	}
	before := row
	row.merge(r)
	if row == before {
		return &row, nil
	}
	return &row, row.save(ctx, tx)
}

// epochOf returns the epoch in a rotation's id: an entry about the rotation may carry a newer one, under
// which it was rolled back.
func epochOf(id activities.RotationID, fallback int64) int64 {
	at := strings.LastIndexByte(string(id), '@')
	if epoch, err := strconv.ParseInt(string(id)[at+1:], 10, 64); at >= 0 && err == nil {
		return epoch
	}
	return fallback
}

func loadRotationRow(ctx context.Context, q Querier, id string) (r rotationRow, err error) {
	err = q.QueryRow(ctx, `SELECT rotation, target, epoch, state, state_at, state_epoch, trigger_source, trigger_actor, trigger_reason, workflow, run,
			started_at, updated_at, COALESCE(published_at, 0), COALESCE(ended_at, 0), candidate, candidate_at, key_id, previous,
			sentence, sentence_at, stragglers, stragglers_at FROM rotations WHERE rotation = ?`, id).
		Scan(&r.rotation, &r.target, &r.epoch, &r.state, &r.stateAt, &r.stateEpoch, &r.triggerSource, &r.triggerActor, &r.triggerReason, &r.workflow, &r.run,
			&r.startedAt, &r.updatedAt, &r.publishedAt, &r.endedAt, &r.candidate, &r.candidateAt, &r.keyID, &r.previous,
			&r.sentence, &r.sentenceAt, &r.stragglers, &r.stragglersAt)
	return r, err
}

func (r *rotationRow) save(ctx context.Context, tx *Tx) error {
	_, err := tx.Exec(ctx, `INSERT INTO rotations (rotation, target, epoch, state, state_at, state_epoch, trigger_source, trigger_actor, trigger_reason, workflow, run,
			started_at, updated_at, published_at, ended_at, candidate, candidate_at, key_id, previous, sentence, sentence_at, stragglers, stragglers_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (rotation) DO UPDATE SET state = excluded.state, state_at = excluded.state_at, state_epoch = excluded.state_epoch,
			trigger_source = excluded.trigger_source, trigger_actor = excluded.trigger_actor, trigger_reason = excluded.trigger_reason,
			workflow = excluded.workflow, run = excluded.run, started_at = excluded.started_at, updated_at = excluded.updated_at,
			published_at = excluded.published_at, ended_at = excluded.ended_at, candidate = excluded.candidate, candidate_at = excluded.candidate_at,
			key_id = excluded.key_id, previous = excluded.previous, sentence = excluded.sentence, sentence_at = excluded.sentence_at,
			stragglers = excluded.stragglers, stragglers_at = excluded.stragglers_at`,
		r.rotation, r.target, r.epoch, r.state, r.stateAt, r.stateEpoch, r.triggerSource, r.triggerActor, r.triggerReason, r.workflow, r.run,
		r.startedAt, r.updatedAt, orNull(r.publishedAt), orNull(r.endedAt), r.candidate, r.candidateAt, r.keyID, r.previous,
		r.sentence, r.sentenceAt, r.stragglers, r.stragglersAt)
	return err
}

// merge takes over what the entry adds. The result does not depend on the order of the entries.
func (r *rotationRow) merge(e reading) {
	r.startedAt = min(r.startedAt, e.at)
	if e.at >= r.updatedAt {
		r.updatedAt, r.workflow, r.run = e.at, e.Workflow, e.Run
	}
	if source := e.Facts[record.FactTrigger]; source != "" && r.triggerSource == "" {
		r.triggerSource, r.triggerActor, r.triggerReason = source, e.Facts[record.FactTriggerActor], e.Facts[record.FactTriggerReason]
	}
	if candidate := e.Facts[record.FactFingerprint]; candidate != "" && e.at >= r.candidateAt {
		r.candidate, r.candidateAt = candidate, e.at
	}
	if id := e.Facts[record.FactKeyID]; id != "" {
		r.keyID = id
	}
	if previous := e.Facts[record.FactPrevious]; previous != "" {
		r.previous = previous
	}
	if e.Phase == record.Intent {
		return
	}
	if sentence := e.Facts[record.FactSentence]; sentence != "" && e.at >= r.sentenceAt {
		r.sentence, r.sentenceAt = sentence, e.at
	}
	if _, told := e.Facts[record.FactStragglers]; told && e.stragglers.valid && e.at >= r.stragglersAt {
		r.stragglers, r.stragglersAt = e.stragglers.encode(), e.at
	}
	if e.state != "" {
		r.enter(e)
	}
}

// enter moves the rotation to the entry's state unless it is there or beyond.
func (r *rotationRow) enter(e reading) {
	if visible(e.state) && (r.publishedAt == 0 || e.at < r.publishedAt) {
		r.publishedAt = e.at
	}
	if !beyond(e.state, e.at, activities.State(r.state), r.stateAt) {
		return
	}
	r.state, r.stateAt, r.stateEpoch, r.endedAt = string(e.state), e.at, e.epoch, 0
	if e.state.Ended() {
		r.endedAt = e.at
	}
	if proven(e.state) && e.at >= r.stragglersAt {
		r.stragglers, r.stragglersAt = "", e.at
	}
}

// left returns what the rotation left on its target: the candidate once it was published, the previous
// credential once it was restored.
func (r *rotationRow) left() (fingerprint string, epoch, at int64) {
	switch {
	case r.state == string(activities.RolledBack):
		return r.previous, max(r.epoch, r.stateEpoch), max(r.stateAt, r.publishedAt) // whatever the zones' clocks say
	case r.publishedAt != 0:
		return r.candidate, r.epoch, r.publishedAt
	}
	return "", 0, 0
}

// visible reports whether consumers see the candidate in this state.
func visible(s activities.State) bool { return s == activities.Published || proven(s) }

// rank orders the states of one rotation: a higher one is never left for a lower one. Zero means that it
// is not the state of a rotation.
func rank(s activities.State) int {
	switch s {
	case activities.Planned:
		return 1
	case activities.Minted:
		return 2
	case activities.Set:
		return 3
	case activities.Tested:
		return 4
	case activities.Published:
		return 5
	case activities.Converged:
		return 6
	case activities.Quarantined:
		return 7
	case activities.Aborted:
		return 8
	case activities.Superseded:
		return 9
	case activities.RolledBack:
		return 10
	case activities.Retired:
		return 11
	case activities.ProvenDead:
		return 12
	}
	return 0
}

// beyond reports whether the state replaces the known one. Quarantine is the one state that a rotation
// leaves again, when a person resolves it, so there the later of the two stands.
func beyond(state activities.State, at int64, known activities.State, knownAt int64) bool {
	switch {
	case known == activities.Quarantined:
		return rank(state) > rank(known) || (state != known && at > knownAt)
	case state == activities.Quarantined && !known.Ended():
		return at >= knownAt
	}
	return rank(state) > rank(known)
}
