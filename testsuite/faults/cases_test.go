package faults

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	common "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/internal/rescue"
	"castellan.dev/testsuite/fault"
	"castellan.dev/workflows/rotation"
)

// steps that a rotation takes in the privileged zone.
func steps() []string { return []string{"open", "mint", "set", "test", "publish", "retire"} }

// cases crosses steps with faults. Delivery and reload kinds are spread over the cases in turn, so that
// every pair of them occurs with many faults; not every triple does, and the table says which ran.
func cases(t testing.TB) []*trial {
	var list []*trial
	spread := []struct{ layout, reload string }{
		{layoutGeneration, reloadHot}, {layoutCombined, reloadHTTP}, {layoutKubernetes, reloadHot}, {layoutGeneration, reloadSignal},
		{layoutCombined, reloadHot}, {layoutGeneration, reloadHTTP}, {layoutCombined, reloadSignal},
	}
	add := func(step, fault string, meet func(context.Context, *trial) error) *trial {
		kind := spread[len(list)%len(spread)]
		c := &trial{step: step, fault: fault, layout: kind.layout, reload: kind.reload, meet: meet, target: fmt.Sprintf("t%02d", len(list))}
		list = append(list, c)
		return c
	}
	for _, step := range steps() {
		add(step, "killed-before", killed(step+":before"))
		add(step, "killed-after", killed(step+":after"))
		add(step, "twice", twice(step))
		add(step, "zombie", zombie(step))
		add(step, "terminated", terminated(step))
		add(step, "reset", reset(step))
		engine := add(step, "engine-killed", engineKilled(step))
		engine.alone = true
	}
	for _, fault := range []struct {
		name string
		meet func(step string) func(context.Context, *trial) error
	}{
		{"killed-before", func(step string) func(context.Context, *trial) error { return killed(step + ":before") }},
		{"killed-after", func(step string) func(context.Context, *trial) error { return killed(step + ":after") }},
		{"twice", twice}, {"terminated", terminated}, {"reset", reset},
	} {
		add("prove", fault.name, fault.meet("prove")).compromise = true
		if fault.name == "terminated" {
			continue // who terminates a rollback starts a rotation that goes forward again
		}
		broken := add("rollback", fault.name, breaking(fault.meet("rollback")))
		broken.ends, broken.outage, broken.reload = activities.RolledBack, true, reloadHTTP
	}
	for _, step := range steps()[2:] { // before SET rescue needs the issuer, which is embedded here and gone, too
		add(step, "rescued", rescued(step+":after")).alone = true
	}
	add("set", "issuer-down", issuerDown(t))
	add("set", "reply-lost", replyLost(t))
	down := add("publish", "target-down", targetDown(fault.Refuse))
	lostAtTarget := add("publish", "target-reply-lost", targetDown(fault.Swallow))
	for _, c := range []*trial{down, lostAtTarget} {
		c.layout, c.reload, c.between = layoutKubernetes, reloadHot, true
	}
	frozen := add("converge", "never-reloads", neverReloads)
	frozen.reload, frozen.layout = reloadHTTP, layoutGeneration
	foreign := add("publish", "foreign-writer", foreignWriter)
	foreign.layout, foreign.reload, foreign.ends = layoutGeneration, reloadHTTP, activities.Quarantined
	add("test", "clock-ahead", clock("26h"))
	add("test", "clock-behind", clock("-2h"))
	restored := add("publish", "engine-restored", engineRestored)
	restored.alone = true
	return list
}

// breaking makes the consumer refuse every certificate but the one that it has.
func breaking(meet func(context.Context, *trial) error) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		c.server.picky.Store(true)
		return meet(ctx, c)
	}
}

// rescued kills the worker and castellan-dev in a step, and finishes the half rotation by hand. When the
// engine is back, its run must find the rotation over.
func rescued(place string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, place), c.rotate(ctx), c.reached(ctx)); err != nil {
			return err
		}
		c.kill()
		c.lab.stopDev()
		if err := c.rescue(ctx); err != nil {
			return err
		}
		c.lab.startDev(ctx)
		return errors.Join(c.start(ctx, ""), c.finish(ctx, activities.Retired))
	}
}

// rescue finishes the rotation as `castellan rescue` does.
func (c *trial) rescue(ctx context.Context) error {
	r, err := rescue.Open(ctx, c.lab.here, rescue.Options{Target: c.target, Actor: "ann", Reason: "fault case", Patience: time.Minute})
	if err != nil {
		return err
	}
	outcome, err := r.Forward(ctx)
	if err == nil && outcome.State != activities.Retired {
		err = fmt.Errorf("rescue left it %s: %s", outcome.State, outcome.Sentence)
	}
	return errors.Join(err, r.Close())
}

// killed kills the worker at a place and starts another one.
func killed(place string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, place), c.rotate(ctx), c.reached(ctx)); err != nil {
			return err
		}
		c.kill()
		return errors.Join(c.start(ctx, ""), c.finish(ctx, c.end()))
	}
}

// twice delivers the step twice.
func twice(step string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		return errors.Join(c.start(ctx, step+":twice"), c.rotate(ctx), c.finish(ctx, c.end()))
	}
}

// zombie holds an attempt back until the rotation and the one after it are over, then lets it act.
func zombie(step string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, step+":before"), c.rotate(ctx), c.reached(ctx), c.terminate(ctx)); err != nil {
			return err
		}
		late := c.worker
		defer late.Process.Kill()
		gate := filepath.Join(c.dir, "zombie") // start clears the gate's files; the zombie keeps its own view
		if err := os.Mkdir(gate, 0o700); err != nil {
			return err
		}
		second := *c
		second.dir = gate
		if err := second.start(ctx, ""); err != nil {
			return err
		}
		c.worker = second.worker
		for range 2 {
			if err := errors.Join(c.rotate(ctx), c.finish(ctx, activities.Retired)); err != nil {
				return err
			}
		}
		if err := c.let(); err != nil {
			return err
		}
		outcome := filepath.Join(c.dir, "outcome")
		if err := poll(ctx, "the zombie acts", func() (bool, error) { return exists(outcome), nil }); err != nil {
			return err
		}
		text, err := os.ReadFile(outcome)
		if err == nil && step == "publish" && string(text) == "ok" {
			err = errors.New("I3 monotone: a publication under an older epoch was accepted")
		}
		return err // what a late attempt does in other steps shows in the store and the ledger
	}
}

// terminate ends the workflow as an operator would, without telling castellan.
func (c *trial) terminate(ctx context.Context) error {
	engine, _, err := c.lab.temporal(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	return engine.TerminateWorkflow(ctx, rotation.WorkflowID(c.target), "", "fault case")
}

// terminated terminates the workflow in a step, and rotates again: the same rotation must go on.
func terminated(step string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, step+":after"), c.rotate(ctx), c.reached(ctx), c.terminate(ctx)); err != nil {
			return err
		}
		c.kill()
		return errors.Join(c.start(ctx, ""), c.rotate(ctx), c.finish(ctx, activities.Retired))
	}
}

// reset resets the workflow to its beginning while it is in a step.
func reset(step string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, step+":after"), c.rotate(ctx), c.reached(ctx)); err != nil {
			return err
		}
		engine, _, err := c.lab.temporal(ctx)
		if err != nil {
			return err
		}
		defer engine.Close()
		described, err := engine.DescribeWorkflowExecution(ctx, rotation.WorkflowID(c.target), "")
		if err != nil {
			return err
		}
		_, err = engine.ResetWorkflowExecution(ctx, &workflowservice.ResetWorkflowExecutionRequest{
			Namespace: c.lab.endpoints.Namespace, Reason: "fault case", RequestId: rand.Text(), WorkflowTaskFinishEventId: 4,
			WorkflowExecution: &common.WorkflowExecution{WorkflowId: rotation.WorkflowID(c.target), RunId: described.GetWorkflowExecutionInfo().GetExecution().GetRunId()},
		})
		if err != nil {
			return err
		}
		return errors.Join(c.let(), c.finish(ctx, c.end()))
	}
}

// engineKilled kills castellan-dev, and with it Temporal, the ledger and the CA, in a step.
func engineKilled(step string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, step+":before"), c.rotate(ctx), c.reached(ctx)); err != nil {
			return err
		}
		c.lab.stopDev()
		if err := c.let(); err != nil {
			return err
		}
		c.lab.startDev(ctx)
		return c.finish(ctx, c.end())
	}
}

// issuerDown refuses every connection to the issuer for a while.
func issuerDown(t testing.TB) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		variable, err := c.issuerProxy(t)
		if err != nil {
			return err
		}
		if err := errors.Join(c.start(ctx, "mint:after", variable), c.rotate(ctx), c.reached(ctx), c.proxy.Set(fault.Refuse), c.let()); err != nil {
			return err
		}
		if err := poll(ctx, "the run stands at MINTED", func() (bool, error) {
			err := c.look(ctx)
			return c.live.State.State == activities.Minted, err
		}); err != nil {
			return err
		}
		return errors.Join(c.proxy.Set(fault.Pass), c.finish(ctx, c.end()))
	}
}

// replyLost lets the issuer sign and loses the certificate on its way back.
func replyLost(t testing.TB) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		variable, err := c.issuerProxy(t)
		if err != nil {
			return err
		}
		if err := errors.Join(c.start(ctx, "mint:after", variable), c.rotate(ctx), c.reached(ctx), c.proxy.Set(fault.Swallow), c.let()); err != nil {
			return err
		}
		if err := poll(ctx, "a reply is swallowed", func() (bool, error) { return c.proxy.Swallowed() > 0, nil }); err != nil {
			return err
		}
		if err := errors.Join(c.proxy.Set(fault.Pass), c.finish(ctx, c.end())); err != nil {
			return err
		}
		found, err := c.records(ctx)
		if err == nil && lost(found) == 0 {
			err = errors.New("I2 nothing lost: the evidence does not say that a certificate was issued and not received")
		}
		return err
	}
}

// targetDown takes the target away, or loses its replies, while the candidate is being published.
func targetDown(mode fault.Mode) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, "test:after"), c.rotate(ctx), c.reached(ctx), c.proxy.Set(mode), c.let()); err != nil {
			return err
		}
		met := func() (bool, error) {
			err := c.look(ctx)
			return c.live.State.State == activities.Tested, err
		}
		if mode == fault.Swallow {
			met = func() (bool, error) { return c.proxy.Swallowed() > 0, nil }
		}
		if err := poll(ctx, "the target is missed", met); err != nil {
			return err
		}
		return errors.Join(c.proxy.Set(fault.Pass), c.finish(ctx, c.end()))
	}
}

// neverReloads is a consumer that keeps the previous certificate: it must be named, and the previous key
// must stay until it has followed.
func neverReloads(ctx context.Context, c *trial) error {
	c.server.frozen.Store(true)
	if err := errors.Join(c.start(ctx, ""), c.rotate(ctx)); err != nil {
		return err
	}
	if err := poll(ctx, "the straggler is named", func() (bool, error) {
		err := c.look(ctx)
		return len(c.live.Stragglers) > 0, err
	}); err != nil {
		return err
	}
	straggler := c.live.Stragglers[0]
	if straggler.Address != c.server.address() || straggler.Standing != activities.UsesPrevious {
		return fmt.Errorf("the straggler is %+v, want %s serving the previous", straggler, c.server.address())
	}
	if _, err := c.lab.secrets.Read(ctx, tlscert.KeyName(c.target, 1)); err != nil {
		return fmt.Errorf("I6 order: the previous key is gone although a consumer still uses it: %w", err)
	}
	c.server.frozen.Store(false)
	c.server.reload()
	return c.finish(ctx, c.end())
}

// foreignWriter replaces the certificate by hand while a publication is on its way.
func foreignWriter(ctx context.Context, c *trial) error {
	if err := errors.Join(c.start(ctx, "publish:before"), c.rotate(ctx), c.reached(ctx)); err != nil {
		return err
	}
	other := filepath.Join(c.dir, "served", "by-hand")
	spare := filepath.Join(c.lab.dir, "t00", "served", "current")
	if err := os.Mkdir(other, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		if err := copyFile(filepath.Join(spare, name), filepath.Join(other, name)); err != nil {
			return err
		}
	}
	link := filepath.Join(c.dir, "served", "by-hand-link")
	if err := errors.Join(os.Symlink("by-hand", link), os.Rename(link, filepath.Join(c.dir, "served", "current"))); err != nil {
		return err
	}
	c.server.reload()
	if err := errors.Join(c.let(), c.finish(ctx, activities.Quarantined)); err != nil {
		return err
	}
	now, err := os.Readlink(filepath.Join(c.dir, "served", "current"))
	if err == nil && now != "by-hand" {
		err = fmt.Errorf("the foreign writer's value was overwritten: current is %s", now)
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// clock moves castellan's injected clock for one rotation: it must end without harm, and the next one,
// under the right clock, must succeed.
func clock(by string) func(context.Context, *trial) error {
	return func(ctx context.Context, c *trial) error {
		if err := errors.Join(c.start(ctx, "", "FAULTS_CLOCK="+by), c.rotate(ctx)); err != nil {
			return err
		}
		state, err := c.ended(ctx)
		if err != nil {
			return err
		}
		if state != activities.Retired && state != activities.Aborted {
			return fmt.Errorf("under a wrong clock it ended %s (%s), want RETIRED or ABORTED", state, c.live.Result.Sentence)
		}
		c.kill()
		return errors.Join(c.start(ctx, ""), c.rotate(ctx), c.finish(ctx, activities.Retired))
	}
}

// engineRestored puts the engine's files back to a copy from the middle of a rotation that has long ended.
func engineRestored(ctx context.Context, c *trial) error {
	if err := errors.Join(c.start(ctx, "test:after"), c.rotate(ctx), c.reached(ctx)); err != nil {
		return err
	}
	engine, backup := filepath.Join(c.lab.state(), "engine"), filepath.Join(c.dir, "backup")
	c.lab.stopDev()
	if err := os.CopyFS(backup, os.DirFS(engine)); err != nil {
		return err
	}
	c.lab.startDev(ctx)
	if err := errors.Join(c.let(), c.finish(ctx, activities.Retired), c.rotate(ctx), c.finish(ctx, activities.Retired)); err != nil {
		return err
	}
	c.kill()
	c.lab.stopDev()
	if err := errors.Join(os.RemoveAll(engine), os.CopyFS(engine, os.DirFS(backup)), os.Chmod(engine, 0o700)); err != nil {
		return err
	}
	c.lab.startDev(ctx)
	if err := c.start(ctx, ""); err != nil {
		return err
	}
	if err := c.finish(ctx, activities.Retired); err != nil { // what the old run drove has long ended so
		return err
	}
	return errors.Join(c.rotate(ctx), c.finish(ctx, activities.Retired))
}

// lost reports how often the evidence says that a certificate was issued and not received.
func lost(found []line) int {
	n := 0
	for _, l := range found {
		if l.Entry.Facts[record.FactIssuedNotReceived] != "" {
			n++
		}
	}
	return n
}
