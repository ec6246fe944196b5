package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn"
	"cleversocks/conn/wire"
)

const listenerDoc = "A socket that clients connect to. Without any, there is one on 127.0.0.1:1080. `-i` and `-p` replace all of them by one."

// Listener is one [[listener]].
type Listener struct {
	Address   ListenAddress
	ReusePort int // accept sockets; 1: no SO_REUSEPORT
	Protocols []Protocol
	Advertise IP // told to clients in UDP and BIND replies
	// ProxyProtocol is off, optional or required; TrustedProxies whose headers
	// are believed.
	ProxyProtocol  string
	TrustedProxies []Prefix
	TLS            TLS
	Auth           []Login
	AuthFrom       []RangeLogins

	GSSAPIProtection []Protection // empty: auth.gssapi.protection
	GSSAPINEC        bool
	Protection       gssapi.Protection // what both mean
	// Transparent is off, redirect or tproxy.
	Transparent string
	// SNI is off, log or match.
	SNI string

	Name         string   // "": the address
	AllowFrom    []Prefix // who may connect at all; empty: everybody
	Users        []string // who may log in, with Groups; both empty: everybody
	Groups       []string
	Egress       []Source
	Upstream     string
	BlockPrivate AutoBool
	UnixSocket
}

// Called is how rules, logs and metrics call the listener; with port 0 the real
// port takes its place once it is known.
func (l *Listener) Called() string { return cmp.Or(l.Name, l.Address.String()) }

func (l *Listener) keys() []Key {
	return slices.Concat([]Key{
		{
			Name: "address", Value: &l.Address, Default: "127.0.0.1:1080",
			Doc: "Where to listen. `0.0.0.0:1080` is IPv4 alone, `[::]:1080` both families, port 0 any free port. `unix:/run/cleversocks.sock` is a unix socket, `unix:@name` one without a file: limits, bans and rules by source address mean none of its clients. `systemd:NAME` are the sockets that systemd passes under that `FileDescriptorName=`.",
		},
		{
			Name: "protocols", Value: &l.Protocols, Default: allProtocols(),
			Doc: "What is spoken here, told apart by a client's first byte. `socks4` is 4 and 4a, `http` is CONNECT and requests for plain `http://` URLs.",
		},
		{
			Name: "advertise", Value: &l.Advertise, Default: "",
			Doc: "The address that clients are told in UDP ASSOCIATE and BIND replies, behind NAT or in a container. It is for clients that came over the same family, IPv4 or IPv6; others, and all without it, are told the address at which they reached this daemon.",
		},
		{
			Name: "auth", Value: &l.Auth, Default: "",
			Doc: "How clients may log in here, the preferred way first: `gssapi` and `password`. Left out: all that are configured, in this order. SOCKS4 user ids are refused where it is given.",
		},
		{
			Name: "auth_from", Value: &l.AuthFrom, Default: "",
			Doc: "What `auth` is for clients from some addresses, as `CIDR = WAY, WAY`: `\"10.0.0.0/8 = gssapi, password\"`. The longest range that a client is in counts; for others it is `auth`.",
		},
		{
			Name: "gssapi_protection", Value: &l.GSSAPIProtection, Default: "",
			Doc: "In place of auth.gssapi.protection. `none` may be among them: it is outside of RFC 1961, and all that curl can do.",
		},
		{
			Name: "gssapi_nec", Value: &l.GSSAPINEC, Default: "false",
			Doc: "Takes the level of protection as one bare byte from clients that send it so, as NEC's server did; curl does with `--socks5-gssapi-nec`. Nothing keeps that byte from being changed on its way.",
		},
		{
			Name: "transparent", Value: &l.Transparent, Default: "off", Choices: []string{"off", "redirect", "tproxy"},
			Doc: "For connections that nftables turns here, whose clients know of no proxy: by `redirect`, or by `tproxy`, which needs CAP_NET_ADMIN and serves datagrams as well. No protocol is spoken then, and clients cannot log in. See [transparent.md](transparent.md).",
		},
		{
			Name: "sni", Value: &l.SNI, Default: "off", Choices: []string{"off", "log", "match"},
			Doc: "Whether the name is read that clients of TLS say first, inside of their tunnels (on transparent listeners the Host of plain HTTP as well). `log`: records have it, and rules judge it with the address that was asked for. `match`: it must also be the name that was asked for, or one of that address; this stops domain fronting. A client may lie, and an encrypted hello shows its outer name. See [doors.md](doors.md#names-inside-tls).",
		},
		{
			Name: "reuse_port", Value: &l.ReusePort, Default: "1", Min: "1", Max: "64",
			Doc: "How many sockets accept, by SO_REUSEPORT. With 1 a second daemon on the port fails loudly. A change takes a restart.",
		},
		{
			Name: "proxy_protocol", Value: &l.ProxyProtocol, Default: "off", Choices: []string{"off", "optional", "required"},
			Doc: "Whether a load balancer in front tells whose connection it passes on, by a PROXY header of version 1 or 2. Limits, rules, bans and logs then mean that client. `required` refuses whoever is not in trusted_proxies, or sends no header.",
		},
		{
			Name: "trusted_proxies", Value: &l.TrustedProxies, Default: "",
			Doc: "The CIDRs of the load balancers whose PROXY header is believed. Nobody else's is: anyone could claim any address with one.",
		},
	}, l.policyKeys(), l.UnixSocket.keys(), l.TLS.keys())
}

// policyKeys are what is different for those who come to this listener.
func (l *Listener) policyKeys() []Key {
	return []Key{
		{
			Name: "name", Value: &l.Name, Default: "",
			Doc: "What rules, records and metrics call this listener. Empty: its address.",
		},
		{
			Name: "allow_from", Value: &l.AllowFrom, Default: "", Optional: true,
			Doc: "The addresses that may connect here at all; others are reset at once and counted. Behind a load balancer with a PROXY header it is the client's address that counts. Empty: everybody may.",
		},
		{Name: "users", Value: &l.Users, Default: "", Optional: true, Doc: "The users who may log in here. With `groups`, one of either is enough. Where there are any, nobody comes in without a log-in. Empty: everybody."},
		{Name: "groups", Value: &l.Groups, Default: "", Optional: true, Doc: "The groups of users who may log in here."},
		{
			Name: "egress", Value: &l.Egress, Default: "", Optional: true,
			Doc: "The source addresses of connections that came here, as in [egress]; or `\"same\"`: the address that the client came to. A user's own addresses, and those of a forwarding rule, come before.",
		},
		{
			Name: "upstream", Value: &l.Upstream, Default: "",
			Doc: "Where all connections that came here go, before any [[forward]]: the name of an [[upstream]], `direct`, or `reject`. Empty: as the forwarding rules say.",
		},
		{
			Name: "block_private", Value: &l.BlockPrivate, Default: "auto",
			Doc: "Overrides acl.block_private for those who came here. `auto`: as there.",
		},
	}
}

func (c *Config) finishListeners(f *finisher) {
	if len(c.Listeners) == 0 && !f.within("listener") {
		f.add(c.origins["listener"], "listener", "must have at least one element, or be left out for 127.0.0.1:1080")
	}
	c.takeTLSFlags(f.flags)
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
		l.finishProtocols(f, element)
		l.finishProxies(f, element)
		l.finishPolicy(f, element)
		l.finishTLS(f, element)
		l.finishUnix(f, element)
		first, double := seen[l.Address]
		switch {
		case double && l.Address.Systemd != "":
			f.add(o, key, "%s is listener[%d].address already", l.Address, first)
		case double && !l.Address.isAnyPort():
			f.add(o, key, "%s is listener[%d].address already; for more accept sockets set reuse_port", l.Address, first)
		}
		seen[l.Address] = i
	}
}

// finishPolicy refuses names that two listeners have, and lists that are there
// and empty, of which nobody can tell what they should mean.
func (l *Listener) finishPolicy(f *finisher, element string) {
	for i := range f.cfg.Listeners {
		if other := &f.cfg.Listeners[i]; other != l && l.Name != "" && other.Called() == l.Name {
			f.add(f.cfg.originOf(element+".name"), element+".name", "%q is the name of listener[%d] too", clip(l.Name), i)
			break
		}
	}
	if l.Name == "" && l.Address.isAnyPort() && (l.Upstream != "" || l.BlockPrivate != Auto) {
		f.add(f.cfg.originOf(element+".name"), element+".name", "is needed with port 0, for what is different for those who come here")
	}
	for key, n := range map[string]int{
		".allow_from": len(l.AllowFrom), ".users": len(l.Users), ".groups": len(l.Groups), ".egress": len(l.Egress),
	} {
		if n == 0 && f.cfg.origins[element+key].layer == fromFile {
			f.add(f.cfg.originOf(element+key), element+key, "is an empty list: leave it out if nothing is meant to be restricted")
		}
	}
	if slices.Contains(l.Kinds(), authsvc.KindToken) && !f.cfg.isSet(keytabKey) {
		f.warn("%s.auth names gssapi, and %s is not set: nobody can log in that way", element, keytabKey)
	}
	if l.SameEgress() && l.Transparent == "tproxy" {
		f.add(f.cfg.originOf(element+".egress"), element+".egress", `"same" is the destination's own address with transparent = "tproxy"`)
	}
	if len(l.Egress) > 1 && slices.ContainsFunc(l.Egress, func(s Source) bool { return s.Same }) {
		f.add(f.cfg.originOf(element+".egress"), element+".egress", `"same" stands alone`)
	}
}

// Source is a source address or range, or "same": the address that a client
// came to.
type Source struct {
	Prefix
	Same bool
}

// String is the address or range, or "same".
func (s Source) String() string {
	if s.Same {
		return "same"
	}
	return s.Prefix.String()
}

// MarshalText is String.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what String writes.
func (s *Source) UnmarshalText(text []byte) error {
	if string(text) == "same" {
		*s = Source{Same: true}
		return nil
	}
	s.Same = false
	return s.Prefix.UnmarshalText(text)
}

func (Source) accepts() string { return `"same", or an IP address or CIDR such as "192.0.2.1"` }

// standsAlone lets one be written without a list around it.
func (Source) standsAlone() {}

// SameEgress reports whether connections leave from where the client came to.
func (l *Listener) SameEgress() bool { return len(l.Egress) == 1 && l.Egress[0].Same }

// EgressRanges are the source addresses, but for "same".
func (l *Listener) EgressRanges() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range l.Egress {
		if !s.Same {
			out = append(out, s.Prefix.Prefix)
		}
	}
	return out
}

// finishProtocols refuses a listener that would speak nothing, and an address
// that no client could use.
func (l *Listener) finishProtocols(f *finisher, element string) {
	if len(l.Protocols) == 0 {
		key := element + ".protocols"
		f.add(f.cfg.originOf(key), key, "must have at least one element, or be left out for all of them")
	}
	if a := l.Advertise; !a.IsZero() && (a.IsUnspecified() || a.IsMulticast()) {
		key := element + ".advertise"
		f.add(f.cfg.originOf(key), key, "%s is no address that a client could send to", a)
	}
}

// Protocol is one that a listener may speak: one of conn.Spoken.
type Protocol string

// UnmarshalText reads its name.
func (p *Protocol) UnmarshalText(text []byte) error {
	if !conn.Spoken().Has(wire.Protocol(text)) {
		return errNotAccepted
	}
	*p = Protocol(text)
	return nil
}

// MarshalText is its name.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p), nil }

// accepts is `"socks5", "socks4" or "http"`.
func (Protocol) accepts() string {
	var names []string
	for _, p := range conn.Spoken() {
		names = append(names, strconv.Quote(p.String()))
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// allProtocols is the default of listener.protocols.
func allProtocols() string {
	var names []string
	for _, p := range conn.Spoken() {
		names = append(names, p.String())
	}
	return strings.Join(names, ",")
}

// Advertised are the addresses that clients are told instead of our own.
func (c *Config) Advertised() []netip.Addr {
	var list []netip.Addr
	for i := range c.Listeners {
		if a := c.Listeners[i].Advertise.Addr; a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}
