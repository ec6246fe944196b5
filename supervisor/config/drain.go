package config

import "time"

const drainDoc = "How the daemon ends."

// MaxDrain is the longest drain.timeout. The tree of services is told before
// it runs how long the drain may take.
const MaxDrain = 24 * time.Hour

// Drain is the [drain] section.
type Drain struct {
	Timeout Duration // then what is left is closed
}

func (d *Drain) keys() []Key {
	return []Key{
		{
			Name: "timeout", Value: &d.Timeout, Default: "25s", Max: "24h", Flag: "drain-timeout", Arg: "DURATION",
			Doc: "How long connections may go on after SIGTERM; then what is left is closed. Orchestrators kill after 30s.",
		},
	}
}
