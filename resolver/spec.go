package resolver

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// System is the server entry that stands for resolv.conf.
const System = "system"

// Transports, as in the servers' URLs and in metrics.
const (
	transportUDP   = "udp"
	transportTCP   = "tcp"
	transportTLS   = "tls"
	transportHTTPS = "https"
	transportHosts = "hosts"
)

// spec is one server entry, parsed.
type spec struct {
	text      string // as configured: the server's identity over reloads
	transport string
	host      string       // a name, for tls and https; empty when addrs came as the host
	addrs     []netip.Addr // where to connect; empty: host is to be resolved
	port      uint16
	verify    string // the name or address that the certificate must hold
	url       string // for https, without the fragment
}

const accepted = `"system", "udp://ADDRESS[:PORT]", "tcp://ADDRESS[:PORT]", ` +
	`"tls://ADDRESS[:PORT]#NAME", "tls://NAME[:PORT]#ADDRESS,..." or "https://NAME[:PORT]/PATH[#ADDRESS,...]"`

// parseSpec reads one server entry. The fragment holds what the rest cannot
// say: the certificate's name for tls with an address, and the addresses of
// the server itself (bootstrap) where the host is a name.
func parseSpec(text string) (spec, error) {
	fail := func(why string) (spec, error) {
		return spec{}, fmt.Errorf("%q: %s: accepted are %s", text, why, accepted)
	}
	u, err := url.Parse(text)
	if err != nil {
		return fail("no URL")
	}
	s := spec{text: text, transport: u.Scheme}
	ports := map[string]uint16{transportUDP: 53, transportTCP: 53, transportTLS: 853, transportHTTPS: 443}
	s.port = ports[u.Scheme]
	if s.port == 0 {
		return fail("unknown transport")
	}
	if u.User != nil || u.RawQuery != "" || u.Opaque != "" || (u.Scheme != transportHTTPS && strings.Trim(u.Path, "/") != "") {
		return fail("more than a host, a port and a fragment")
	}
	if p := u.Port(); p != "" {
		if s.port, err = netaddr.ParsePort(p); err != nil || s.port == 0 {
			return fail("bad port")
		}
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		s.addrs, s.verify = []netip.Addr{addr.Unmap()}, addr.WithZone("").String()
	} else {
		name, err := wire.NormalizeName(u.Hostname())
		if err != nil {
			return fail("bad host")
		}
		s.host, s.verify = name, name
	}
	if s.host != "" && u.Scheme != transportTLS && u.Scheme != transportHTTPS {
		return fail("needs an address, not a name")
	}
	if err := s.fragment(u.Fragment); err != "" {
		return fail(err)
	}
	u.Fragment = ""
	s.url = u.String()
	return s, nil
}

// fragment reads what follows the #, and says what is wrong with it.
func (s *spec) fragment(text string) string {
	switch {
	case text == "":
		return ""
	case s.transport == transportUDP || s.transport == transportTCP:
		return "a fragment means nothing here"
	case s.host == "" && s.transport == transportTLS:
		name, err := wire.NormalizeName(text)
		if err != nil {
			return "bad certificate name"
		}
		s.verify = name
		return ""
	case s.host == "":
		return "the host is an address already"
	}
	for part := range strings.SplitSeq(text, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return "bad bootstrap address"
		}
		s.addrs = append(s.addrs, addr.Unmap())
	}
	return ""
}

// CheckServer reports what is wrong with a server entry, and what is
// accepted; Options.Servers says what they mean.
func CheckServer(text string) error {
	if text == System {
		return nil
	}
	_, err := parseSpec(text)
	return err
}

// parseServers reads server entries.
func parseServers(list []string) ([]spec, error) {
	out := make([]spec, 0, len(list))
	for i, text := range list {
		if text == System {
			out = append(out, spec{text: text, transport: System})
			continue
		}
		s, err := parseSpec(text)
		if err != nil {
			return nil, fmt.Errorf("servers[%d]: %w", i, err)
		}
		out = append(out, s)
	}
	return out, nil
}
