package config

const drainDoc = "How the daemon ends."

// Drain is the [drain] section.
type Drain struct {
	Timeout Duration // then what is left is closed
}

func (d *Drain) keys() []Key {
	return []Key{
		{
			Name: "timeout", Value: &d.Timeout, Default: "25s", Flag: "drain-timeout", Arg: "DURATION",
			Doc: "How long connections may go on after SIGTERM; then what is left is closed. Orchestrators kill after 30s.",
		},
	}
}
