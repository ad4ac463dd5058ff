package servicedb

import (
	"context"
	"encoding/json"
	"time"

	"castellan.dev/activities"
)

// Rotation is the record of one rotation.
type Rotation struct {
	ID        activities.RotationID
	Target    string
	Epoch     activities.Epoch
	State     activities.State
	StateAt   time.Time
	Trigger   activities.Trigger // source, actor and reason
	Workflow  string
	Run       string
	Started   time.Time
	Updated   time.Time
	Published time.Time // zero: consumers have not seen the candidate
	Ended     time.Time // zero: still open

	Candidate Credential
	KeyID     string
	Previous  Credential

	Sentence   string // what came out, for people
	Stragglers []activities.Straggler
}

// RotationFilter narrows a list of rotations; the zero value lists all.
type RotationFilter struct {
	Target  string
	State   activities.State
	Trigger string // source
	Open    bool   // only those that have not ended
	Since   time.Time
	Until   time.Time
}

const selectRotation = `SELECT r.rotation, r.target, r.epoch, r.state, r.state_at, r.trigger_source, r.trigger_actor, r.trigger_reason, r.workflow, r.run,
	r.started_at, r.updated_at, COALESCE(r.published_at, 0), COALESCE(r.ended_at, 0), r.key_id, r.sentence, r.stragglers,
	r.candidate, COALESCE(c.serial, ''), COALESCE(c.not_before, 0), COALESCE(c.not_after, 0), COALESCE(c.key_algorithm, ''),
	r.previous, COALESCE(p.serial, ''), COALESCE(p.not_before, 0), COALESCE(p.not_after, 0), COALESCE(p.key_algorithm, '')
	FROM rotations r
	LEFT JOIN credentials c ON c.target = r.target AND c.fingerprint = r.candidate
	LEFT JOIN credentials p ON p.target = r.target AND p.fingerprint = r.previous`

func scanRotation(scan scanner) (r Rotation, err error) {
	var epoch, stateAt, started, updated, published, ended, candidateFrom, candidateTo, previousFrom, previousTo int64
	var stragglers string
	err = scan(&r.ID, &r.Target, &epoch, &r.State, &stateAt, &r.Trigger.Source, &r.Trigger.Actor, &r.Trigger.Reason, &r.Workflow, &r.Run,
		&started, &updated, &published, &ended, &r.KeyID, &r.Sentence, &stragglers,
		&r.Candidate.Fingerprint, &r.Candidate.Serial, &candidateFrom, &candidateTo, &r.Candidate.KeyAlgorithm,
		&r.Previous.Fingerprint, &r.Previous.Serial, &previousFrom, &previousTo, &r.Previous.KeyAlgorithm)
	if err != nil {
		return Rotation{}, err
	}
	r.Epoch, r.StateAt, r.Started, r.Updated = activities.Epoch(epoch), moment(stateAt), moment(started), moment(updated)
	r.Published, r.Ended = moment(published), moment(ended)
	r.Candidate.NotBefore, r.Candidate.NotAfter = moment(candidateFrom), moment(candidateTo)
	r.Previous.NotBefore, r.Previous.NotAfter = moment(previousFrom), moment(previousTo)
	if stragglers != "" {
		err = json.Unmarshal([]byte(stragglers), &r.Stragglers)
	}
	return r, err
}

// Rotation returns the record of one rotation. It is NotFound when no entry named it.
func (db *DB) Rotation(ctx context.Context, id activities.RotationID) (Rotation, error) {
	r, err := scanRotation(db.QueryRow(ctx, selectRotation+` WHERE r.rotation = ?`, string(id)).Scan)
	return r, failed("read rotation "+quoted(string(id)), err)
}

// Rotations lists rotations, the latest first, and returns the cursor of the next page (empty: no more).
func (db *DB) Rotations(ctx context.Context, filter RotationFilter, page Page) ([]Rotation, string, error) {
	var where conditions
	where.equal("r.target", filter.Target)
	where.equal("r.state", string(filter.State))
	where.equal("r.trigger_source", filter.Trigger)
	if filter.Open {
		where.add("r.ended_at IS NULL")
	}
	if !filter.Since.IsZero() {
		where.add("r.started_at >= ?", micros(filter.Since))
	}
	if !filter.Until.IsZero() {
		where.add("r.started_at < ?", micros(filter.Until))
	}
	if page.Cursor != "" {
		started, id, err := splitCursor(page.Cursor)
		if err != nil {
			return nil, "", failed("list rotations", err)
		}
		where.add("(r.started_at, r.rotation) < (?, ?)", started, id)
	}
	limit := page.limit()
	list, err := collect(ctx, db, scanRotation, selectRotation+where.where()+` ORDER BY r.started_at DESC, r.rotation DESC LIMIT ?`, append(where.args, limit+1)...)
	if err != nil {
		return nil, "", failed("list rotations", err)
	}
	list, next := more(list, limit, func(r Rotation) string { return cursor(micros(r.Started), string(r.ID)) })
	return list, next, nil
}
