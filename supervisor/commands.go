package supervisor

import (
	"context"
	"log/slog"

	"cleversocks/bind"
	"cleversocks/conn/dial"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
	"cleversocks/udprelay"
)

// commands are the services behind UDP ASSOCIATE and BIND. They outlive the
// policies, and take the settings of each when it is committed.
type commands struct {
	udp  *udprelay.Relay
	bind *bind.Server
}

func newCommands(log *slog.Logger, m *metrics.Registry, g *guards) commands {
	panics := reporter(log, m)
	return commands{
		udp:  udprelay.New(udprelay.RelayOptions{Metrics: m, Seats: g.seats[ofAssociations], Logger: log, Panics: panics}),
		bind: bind.New(bind.ServerOptions{Metrics: m, Seats: g.seats[ofBinds], Panics: panics}),
	}
}

// Prepare gives the policy the commands, which take their settings when they
// are committed.
func (c commands) Prepare(_ context.Context, d *draft) (change, error) {
	d.policy.UDP, d.policy.Bind = c.udp, c.bind
	return effect(func(context.Context) { c.configure(d.cfg) }), nil
}

// configure applies the settings to what is asked for from now on.
func (c commands) configure(cfg *config.Config) {
	filters := map[string]udprelay.Filter{
		"none": udprelay.FilterNone, "address": udprelay.FilterAddress, "endpoint": udprelay.FilterEndpoint,
	}
	associations, here := associationLimit(cfg), 0
	if cfg.UDP.MaxAssociations == 0 {
		here = associations // what the descriptors of this process carry
	}
	c.udp.Configure(udprelay.RelayOptions{
		Disabled:        !cfg.UDP.Enabled,
		Ports:           cfg.UDP.Ports.PortRange,
		Filter:          filters[cfg.UDP.Filter],
		IdleTimeout:     cfg.UDP.IdleTimeout.D(),
		MaxPerUser:      associationShare(cfg),
		MaxAssociations: cfg.UDP.MaxAssociations,
		MaxHere:         here,
		MaxExtraSockets: max(associations/2, 16),
		FirstPortOnly:   cfg.UDP.ClientPorts == "first",
	})
	c.bind.Configure(bind.ServerOptions{
		Disabled:      !cfg.Bind.Enabled,
		Ports:         cfg.Bind.Ports.PortRange,
		AcceptTimeout: cfg.Bind.AcceptTimeout.D(),
		AnyPeer:       cfg.Bind.AnyPeer,
		MaxPerUser:    cfg.Bind.MaxPerUser,
		Sockets:       socketOptions(cfg),
		Control:       dial.Congestion(cfg.Relay.Congestion),
	})
}

// udpShare is how many associations a user, or a source, may have where nobody
// set it: a quarter of all, so that one cannot leave the others without.
func udpShare(associations int) int { return max(associations/4, 8) }
