package config

const limitsDoc = "What one client, or all together, may take of the daemon."

// Limits is the [limits] section.
type Limits struct {
	MaxConnections   int      // 0: what the descriptor limit carries
	HandshakeTimeout Duration // for the whole handshake
	ConnectTimeout   Duration // for the dial, all addresses together
	IdleTimeout      Duration // of a relay, both directions silent
	MaxSessionAge    Duration // of a tunnel, give or take a tenth; 0: any
	ExitWhenIdle     Duration // 0: never

	MaxConnectionsPerIP int // an IPv6 client counts by its /64; 0: any number
	ConnectionRate      ConnectionRate
	BandwidthBurst      Duration
	AuthFailures        AuthFailures
	Exempt              []Exempt // free of the rate and of bans
}

// ConnectionRate bounds how fast one source connects.
type ConnectionRate struct {
	PerSecond int // 0: no limit
	Burst     int // at once; 0: as many as a second may bring
}

// AuthFailures says when a source is banned, and for how long.
type AuthFailures struct {
	Max    int      // within Window; 0: nobody is banned
	Window Duration // that failures count in
	Ban    Duration // the first; each next one is twice as long
	BanMax Duration // where that ends
}

func (l *Limits) keys() []Key {
	return []Key{
		{
			Name: "max_connections", Value: &l.MaxConnections, Default: "0", Min: "0", Max: "10000000",
			Flag: "max-connections", Short: "m", Arg: "MAX",
			Doc: "How many connections are served at a time. 0: as many as the descriptor limit carries, with headroom. One past the limit is accepted, reset and counted.",
		},
		{
			Name: "handshake_timeout", Value: &l.HandshakeTimeout, Default: "30s", Min: "100ms",
			Doc: "For the whole handshake, however its bytes trickle in.",
		},
		{
			Name: "connect_timeout", Value: &l.ConnectTimeout, Default: "10s", Min: "100ms",
			Doc: "For reaching the target, all its addresses together.",
		},
		{
			Name: "idle_timeout", Value: &l.IdleTimeout, Default: "15m", Min: "100ms",
			Doc: "Ends a connection on which neither side has sent a byte for so long.",
		},
		{
			Name: "max_session_age", Value: &l.MaxSessionAge, Default: "0s",
			Doc: "Ends a tunnel or a UDP association at this age, give or take a tenth, however busy it is; 0s: never. Clients then connect anew, which moves long connections to replicas that were added since. The record's cause is drained, and its err names this setting. A connection of HTTP/2, or of plain HTTP requests, finishes what is under way and takes no more. A reload changes it for connections that are open, too.",
		},
		{
			Name: "exit_when_idle", Value: &l.ExitWhenIdle, Default: "0s",
			Flag: "exit-when-idle", Short: "t", Arg: "SECONDS",
			Doc: "The daemon drains and exits when it has had no connection for so long; 0s: never. The flag takes a number of seconds, or a duration.",
		},
		{
			Name: "max_connections_per_ip", Value: &l.MaxConnectionsPerIP, Default: "0", Min: "0", Max: "10000000",
			Doc: "How many connections one address may have at a time, an IPv6 client counted by its /64; 0: any number.",
		},
		{
			Name: "connection_rate.per_second", Value: &l.ConnectionRate.PerSecond, Default: "0", Min: "0", Max: "1000000",
			Doc: "How many connections a second one address may open, an IPv6 client counted by its /64; 0: any number. One too many is reset and counted.",
		},
		{
			Name: "connection_rate.burst", Value: &l.ConnectionRate.Burst, Default: "0", Min: "0", Max: "1000000",
			Doc: "How many of them may come at once; 0: as many as in a second.",
		},
		{
			Name: "bandwidth_burst", Value: &l.BandwidthBurst, Default: "500ms", Min: "100ms", Max: "1m",
			Doc: "How far ahead of their bandwidth users may be after a rest: 500ms lets half a second's worth through at once, then the rate. Within ten seconds the default carries the rate to within 3 percent; more lets short answers come faster.",
		},
		{
			Name: "auth_failures.max", Value: &l.AuthFailures.Max, Default: "5", Min: "0", Max: "100",
			Doc: "How many failed log-ins within the window ban an address (of IPv6, its /64), or the local user at a unix socket; 0: none does. A banned address is closed at accept.",
		},
		{
			Name: "auth_failures.window", Value: &l.AuthFailures.Window, Default: "1m", Min: "1s",
			Doc: "How long a failed log-in counts.",
		},
		{
			Name: "auth_failures.ban", Value: &l.AuthFailures.Ban, Default: "1m", Min: "1s",
			Doc: "How long the first ban is. Each next one is twice as long.",
		},
		{
			Name: "auth_failures.ban_max", Value: &l.AuthFailures.BanMax, Default: "1h", Min: "1s",
			Doc: "The longest ban. An address that stays quiet for as long after its last one begins anew.",
		},
		{
			Name: "exempt", Value: &l.Exempt, Default: "",
			Doc: "Addresses free of the rate and of bans: a NAT full of people, a load balancer. `\"unix:uid=33\"` is the local user of that number at unix sockets: a web server that passes on the passwords of many.",
		},
	}
}

func (c *Config) finishLimits(f *finisher) {
	const ban, most = "limits.auth_failures.ban", "limits.auth_failures.ban_max"
	failures := c.Limits.AuthFailures
	switch {
	case failures.BanMax >= failures.Ban || f.within("limits.auth_failures"):
	case c.isSet(most):
		f.add(c.originOf(most), most, "is %s, less than %s (%s)", failures.BanMax, ban, failures.Ban)
	default: // its default: the place to look at is the other one's
		f.add(c.originOf(ban), ban, "is %s, more than %s (%s)", failures.Ban, most, failures.BanMax)
	}
}
