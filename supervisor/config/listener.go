package config

import (
	"fmt"
	"net/netip"
)

const listenerDoc = "A socket that clients connect to. Without any, there is one on 127.0.0.1:1080. `-i` and `-p` replace all of them by one."

// Listener is one [[listener]].
type Listener struct {
	Address   ListenAddress
	ReusePort int // accept sockets; 1: no SO_REUSEPORT
}

// defaultListenAddress is where the daemon listens when nothing else is said.
func defaultListenAddress() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1080)
}

func (l *Listener) keys() []Key {
	return []Key{
		{
			Name: "address", Value: &l.Address, Default: "127.0.0.1:1080",
			Doc: "Where to listen. `0.0.0.0:1080` is IPv4 alone, `[::]:1080` both families, port 0 any free port.",
		},
		{
			Name: "reuse_port", Value: &l.ReusePort, Default: "1", Min: "1", Max: "64",
			Doc: "How many sockets accept, by SO_REUSEPORT. With 1 a second daemon on the port fails loudly.",
		},
	}
}

func (c *Config) finishListeners(f *finisher) {
	if len(c.Listeners) == 0 {
		f.add(c.origins["listener"], "listener", "must have at least one element, or be left out for 127.0.0.1:1080")
	}
	seen := make(map[ListenAddress]int, len(c.Listeners))
	for i := range c.Listeners {
		l := &c.Listeners[i]
		element := fmt.Sprintf("listener[%d]", i)
		if f.within(element) {
			continue
		}
		key := element + ".address"
		o := c.originOf(key)
		if l.Address.IsZero() {
			f.add(o, key, "must be %s, not empty", l.Address.accepts())
			continue
		}
		f.resolve(key, o, &l.Address)
		first, double := seen[l.Address]
		if double && l.Address.AddrPort.Port() != 0 {
			f.add(o, key, "%s is listener[%d].address already; for more accept sockets set reuse_port", l.Address, first)
		}
		seen[l.Address] = i
	}
}
