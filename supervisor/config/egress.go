package config

import "net/netip"

const egressDoc = "How connections leave for their targets, and for upstreams. A user's addresses come before these, and those of a [[forward]] rule before both."

// Egress is the [egress] section, and a rule's or a user's exception to it.
type Egress struct {
	Address   []Prefix // source addresses; empty: the kernel's choice
	Interface string   // SO_BINDTODEVICE; "": any
	Mark      int64    // SO_MARK, of 32 bits; 0: none
}

// IsZero says that nothing is set.
func (e Egress) IsZero() bool { return len(e.Address) == 0 && e.Interface == "" && e.Mark == 0 }

func (e *Egress) keys() []Key {
	return []Key{
		{
			Name: "address", Value: &e.Address, Default: "", Flag: "bind", Short: "b", Arg: "ADDR",
			Doc: "The source address of connections. Several are taken at random, one for each connection, and of a CIDR a random address, which must be routed to this machine. A family of which there is none is not dialed. The flag takes names of hosts as well. Empty: the kernel's choice.",
		},
		{
			Name: "interface", Value: &e.Interface, Default: "", Max: "",
			Doc: "The network interface that connections leave by, as `eth1`. It must exist at the start; later it may come and go. Needs CAP_NET_RAW on old kernels.",
		},
		{
			Name: "mark", Value: &e.Mark, Default: "0", Min: "0", Max: "4294967295",
			Doc: "A mark on the packets for the host's routing rules (SO_MARK). Needs CAP_NET_ADMIN.",
		},
	}
}

// exceptions are the keys of an Egress inside another section.
func (e *Egress) exceptions(doc string) []Key {
	keys := e.keys()
	for i := range keys {
		k := &keys[i]
		k.Name = "egress." + k.Name
		k.Flag, k.Short, k.Arg = "", "", ""
		k.Doc = doc + " As egress." + k.Name[len("egress."):] + "."
	}
	return keys
}

// maxInterface is the longest name of an interface, IFNAMSIZ less its NUL.
const maxInterface = 15

func (c *Config) finishEgress(f *finisher) {
	f.checkEgress("egress", &c.Egress)
}

func (f *finisher) checkEgress(path string, e *Egress) {
	if len(e.Interface) > maxInterface {
		key := path + ".interface"
		f.add(f.cfg.originOf(key), key, "%q is longer than an interface's name can be, %d bytes", clip(e.Interface), maxInterface)
	}
}

// EgressRanges are all source addresses of the settings: what is sent to one of
// them comes back to this host.
func (c *Config) EgressRanges() (all []netip.Prefix) {
	c.EachEgress(func(_ string, ranges []netip.Prefix) { all = append(all, ranges...) })
	return all
}

// EachEgress visits the source addresses of each setting that has some.
func (c *Config) EachEgress(visit func(key string, ranges []netip.Prefix)) {
	visit("egress.address", Prefixes(c.Egress.Address))
	for i := range c.Users {
		visit(element("user", i)+".egress", Prefixes(c.Users[i].Egress))
	}
	for i := range c.Listeners {
		visit(element("listener", i)+".egress", c.Listeners[i].EgressRanges())
	}
	for i := range c.Forwards {
		visit(element("forward", i)+".egress.address", Prefixes(c.Forwards[i].Egress.Address))
	}
}
