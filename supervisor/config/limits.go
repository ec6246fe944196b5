package config

const limitsDoc = "What one client, or all together, may take of the daemon."

// Limits is the [limits] section.
type Limits struct {
	MaxConnections   int      // 0: what the descriptor limit carries
	HandshakeTimeout Duration // for the whole handshake
	ConnectTimeout   Duration // for the dial, all addresses together
	IdleTimeout      Duration // of a relay, both directions silent
	ExitWhenIdle     Duration // 0: never
}

func (l *Limits) keys() []Key {
	return []Key{
		{
			Name: "max_connections", Value: &l.MaxConnections, Default: "0", Min: "0", Max: "10000000",
			Flag: "max-connections", Short: "m", Arg: "MAX",
			Doc: "How many connections are served at a time. 0: as many as the descriptor limit carries, with headroom. One past the limit is accepted, reset and counted.",
		},
		{
			Name: "handshake_timeout", Value: &l.HandshakeTimeout, Default: "30s", Min: "1s",
			Doc: "For the whole handshake, however its bytes trickle in.",
		},
		{
			Name: "connect_timeout", Value: &l.ConnectTimeout, Default: "10s", Min: "1s",
			Doc: "For reaching the target, all its addresses together.",
		},
		{
			Name: "idle_timeout", Value: &l.IdleTimeout, Default: "15m", Min: "1s",
			Doc: "Ends a connection on which neither side has sent a byte for so long.",
		},
		{
			Name: "exit_when_idle", Value: &l.ExitWhenIdle, Default: "0s",
			Flag: "exit-when-idle", Short: "t", Arg: "SECONDS",
			Doc: "The daemon drains and exits when it has had no connection for so long; 0s: never. The flag takes a number of seconds, or a duration.",
		},
	}
}
