package supervisor

import (
	"cleversocks/conn"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/usage"
)

// newUsage makes what pushes usage and sessions, of a group's connections.
func newUsage(d *daemon, m *metrics.Registry, cfg *config.Config, group *conn.Group) *usage.Usage {
	return usage.New(usage.Options{
		Log: d.log, Metrics: m.Usage, Panics: d.panics, Directory: cfg.State.Directory,
		Sessions: func() []usage.Session {
			var list []usage.Session
			for _, r := range group.Sessions() {
				if !r.Handshake {
					list = append(list, usageOf(r))
				}
			}
			return list
		},
	})
}

func usageSettings(cfg *config.Config) usage.Settings {
	u := cfg.Usage
	return usage.Settings{
		URL: u.URL.String(), Interval: u.Interval.D(), Token: u.Token.Reveal(), Authority: u.Authority, Spool: int64(u.Spool),
	}
}

// usageOf is a connection as usage events tell it.
func usageOf(r *conn.Record) usage.Session {
	s := sessionOf(r)
	out := usage.Session{
		ID: s.ID, Started: r.Started.UTC(), User: s.User, Client: s.Client, Listener: s.Listener, Protocol: s.Protocol,
		Command: s.Command, Target: s.Target, HostIP: s.HostIP, Upstream: s.Upstream,
		BytesIn: s.BytesIn, BytesOut: s.BytesOut, Duration: float64(r.Duration.Microseconds()) / 1000, Cause: r.Cause,
	}
	return out
}
