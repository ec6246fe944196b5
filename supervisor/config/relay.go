package config

const relayDoc = "How bytes move once a connection is established."

// Relay is the [relay] section.
type Relay struct {
	Engine     string // auto, splice or copy
	BufferSize Size
	NoDelay    bool
	Keepalive  Keepalive
	Congestion string // TCP_CONGESTION; "": the kernel's choice
}

// Keepalive is TCP keepalive on both sockets of a connection.
type Keepalive struct {
	Idle     Duration // before the first probe
	Interval Duration // between probes
	Count    int      // unanswered probes that end the connection
}

func (r *Relay) keys() []Key {
	return []Key{
		{
			Name: "engine", Value: &r.Engine, Default: "auto", Choices: []string{"auto", "splice", "copy"},
			Doc: "What moves the bytes. `auto` splices inside the kernel where the sockets allow it and copies elsewhere.",
		},
		{
			Name: "buffer_size", Value: &r.BufferSize, Default: "16KiB", Min: "1KiB", Max: "4MiB",
			Doc: "The first read's buffer, and the copy engine's. Splice moves up to 256KiB at a time.",
		},
		{
			Name: "nodelay", Value: &r.NoDelay, Default: "true",
			Doc: "Sets TCP_NODELAY, so that small messages go out at once.",
		},
		{
			Name: "keepalive.idle", Value: &r.Keepalive.Idle, Default: "60s", Min: "0s", Max: "32767s",
			Doc: "Silence before the first keepalive probe, in whole seconds. 0: none is sent.",
		},
		{
			Name: "keepalive.interval", Value: &r.Keepalive.Interval, Default: "15s", Min: "1s", Max: "32767s",
			Doc: "Time between keepalive probes.",
		},
		{
			Name: "keepalive.count", Value: &r.Keepalive.Count, Default: "4", Min: "1", Max: "127",
			Doc: "How many unanswered probes end the connection.",
		},
		{
			Name: "congestion", Value: &r.Congestion, Default: "",
			Doc: "The congestion control of our sockets, such as `bbr` or `cubic`, as the kernel allows. Empty: the kernel's choice.",
		},
	}
}
