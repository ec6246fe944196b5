package config

const egressDoc = "How connections leave for their targets."

// Egress is the [egress] section.
type Egress struct {
	Address IP // source address; the zero IP: the kernel's choice
}

func (e *Egress) keys() []Key {
	return []Key{
		{
			Name: "address", Value: &e.Address, Default: "", Flag: "bind", Short: "b", Arg: "ADDR",
			Doc: "The source address of connections to targets. Empty: the kernel's choice.",
		},
	}
}
