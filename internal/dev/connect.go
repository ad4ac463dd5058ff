package dev

import (
	"context"

	"go.temporal.io/sdk/client"

	"castellan.dev/internal/codec"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/workers"
)

// connect dials the engine as the identity that fits what this process serves: all zones at once, or
// only what `castellan serve` would be.
func (p *Process) connect(ctx context.Context) (err error) {
	name := identity.Serve
	if len(p.options.Zones) > 0 {
		name = identity.Dev
	}
	ring, err := installation.OpenKeyring(p.options.State.CodecKeys())
	if err != nil {
		return err
	}
	if p.codec, err = codec.New(ring, p.engine.Namespace()); err != nil {
		return err
	}
	options := p.engine.ClientOptions(p.sources[name])
	codec.Install(&options, p.codec)
	p.telemetry.Install(&options)
	p.client, err = client.DialContext(ctx, options)
	if err != nil {
		return err
	}
	p.undo(p.client.Close)
	p.settings = workers.Settings{Engine: p.client}
	return nil
}
