package config

import "time"

const drainDoc = "How the daemon ends."

// MaxDrain is the longest drain.timeout. The tree of services is told before
// it runs how long the drain may take.
const MaxDrain = 24 * time.Hour

// Drain is the [drain] section.
type Drain struct {
	Delay   Duration // not ready, and still accepting
	Timeout Duration // then what is left is closed
	// UpgradeTimeout is Timeout for a predecessor; 0: until its last tunnel ends.
	UpgradeTimeout Duration
}

func (d *Drain) keys() []Key {
	return []Key{
		{
			Name: "delay", Value: &d.Delay, Default: "0s", Max: "1h",
			Doc: "How long new connections are still accepted after SIGTERM, while /readyz says no: load balancers and Kubernetes need some seconds to notice. `timeout` begins behind it.",
		},
		{
			Name: "timeout", Value: &d.Timeout, Default: "25s", Max: "24h", Flag: "drain-timeout", Arg: "DURATION",
			Doc: "How long connections may go on after SIGTERM; then what is left is closed. Kubernetes kills after 30s, and `docker stop` after 10s: give the container more (`--stop-timeout 30`), or set this to `8s`, as the image's own configuration does.",
		},
		{
			Name: "upgrade_timeout", Value: &d.UpgradeTimeout, Default: "0s",
			Doc: "How long connections may go on in the old process after an upgrade. 0: until the last of them ends. See [upgrades.md](upgrades.md).",
		},
	}
}
