package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"cleversocks/conn/dial"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
	"cleversocks/listener/proxyproto"
)

// Rule sends matching destinations through an upstream. An empty list
// matches everything; of a list that is not, one entry must match.
type Rule struct {
	// Label is what records and errors call the rule; "": "forward[2]".
	Label string
	// To holds names ("example.org"), names below one ("*.example.org"),
	// addresses and CIDRs ("10.0.0.0/8"), or "*". A destination given by
	// name matches names only: it is not resolved to find out.
	To    []string
	Ports []netaddr.PortRange
	// Users and Groups say together who: one of either is enough.
	Users  []string
	Groups []string
	From   []netip.Prefix // of clients
	// Listeners are the names of those that clients came to.
	Listeners []string
	// Upstream is an upstream's name, "direct" or "reject".
	Upstream string
	// Rewrite is the "host:port" asked for instead. An empty host or "*"
	// keeps the host, port 0 keeps the port.
	Rewrite string
	// Egress is how connections leave, for "direct".
	Egress dial.Egress
	// SendProxy is the header that destinations get, for "direct".
	SendProxy proxyproto.Send
}

const (
	toDirect = "direct"
	toReject = "reject"
)

// rule is a Rule ready to be matched without allocation.
type rule struct {
	label    string // "forward[2]"
	any      bool
	names    map[string]struct{}
	suffixes map[string]struct{} // without "*."
	prefixes *bart.Lite
	ports    []netaddr.PortRange
	clients  clients
	rewrite  wire.Addr // what is unset is kept
	egress   dial.Egress
	// sendProxy is the header for destinations.
	sendProxy proxyproto.Send
	action    Action
	pool      *Pool
}

func compileRule(index int, r Rule, pools map[string]*Pool) (*rule, *ConfigError) {
	c := &rule{label: cmp.Or(r.Label, fmt.Sprintf("forward[%d]", index)), any: len(r.To) == 0, ports: r.Ports, egress: r.Egress, sendProxy: r.SendProxy}
	fail := func(field string, err error) (*rule, *ConfigError) {
		return nil, &ConfigError{c.label + "." + field, err}
	}
	for i, to := range r.To {
		if err := c.addTo(to); err != nil {
			return fail(fmt.Sprintf("to[%d]", i), err)
		}
	}
	for i, p := range r.Ports {
		if p.First > p.Last {
			return fail(fmt.Sprintf("ports[%d]", i), fmt.Errorf("%d-%d is empty", p.First, p.Last))
		}
	}
	c.clients = clientsOf(r)
	var err error
	if c.rewrite, err = parseRewrite(r.Rewrite); err != nil {
		return fail("rewrite", err)
	}
	switch r.Upstream {
	case toDirect:
		c.action = Direct
	case toReject:
		c.action = Reject
	default:
		pool, known := pools[r.Upstream]
		if r.Upstream == "" {
			return fail("upstream", errors.New("is missing: name an upstream, or direct or reject"))
		}
		if !known {
			return fail("upstream", fmt.Errorf("%q is no upstream's name, nor direct or reject", r.Upstream))
		}
		c.action, c.pool = Via, pool
	}
	if c.action != Direct && !r.Egress.IsZero() {
		return fail("egress", errors.New(`only a rule with upstream = "direct" has one: an upstream's connections are shared`))
	}
	if c.action != Direct && r.SendProxy.On() {
		return fail("send_proxy", errors.New(`only a rule with upstream = "direct" has one, for the destination; the first hop of an upstream gets a header by send_proxy in [[upstream]]`))
	}
	if c.action == Reject && r.Rewrite != "" {
		return fail("rewrite", errors.New("nothing is asked for by a rule that rejects"))
	}
	return c, nil
}

func (c *rule) addTo(to string) error {
	if to == "*" {
		c.any = true
		return nil
	}
	if suffix, ok := strings.CutPrefix(to, "*."); ok {
		name, err := wire.NormalizeName(suffix)
		if err != nil {
			return err
		}
		c.suffixes = set(c.suffixes, name)
		return nil
	}
	if strings.Contains(to, "/") {
		p, err := netaddr.ParsePrefix(to)
		if err != nil {
			return err
		}
		c.addPrefix(p)
		return nil
	}
	addr, err := wire.ParseHost(to, 0)
	if err != nil {
		return err
	}
	if addr.IsName() {
		c.names = set(c.names, addr.Name)
		return nil
	}
	c.addPrefix(netaddr.Single(addr.IP))
	return nil
}

func set(m map[string]struct{}, key string) map[string]struct{} {
	if m == nil {
		m = make(map[string]struct{})
	}
	m[key] = struct{}{}
	return m
}

func (c *rule) addPrefix(p netip.Prefix) {
	if c.prefixes == nil {
		c.prefixes = new(bart.Lite)
	}
	c.prefixes.Insert(p)
}

func (c *rule) matches(q Query) bool {
	return c.clients.match(&q) && c.matchesPort(q.Dest.Port) && (c.matchesHost(q.Dest) || c.matchesLabel(q.Asked) || q.Sniffed != "" && c.matchesHost(wire.Addr{Name: q.Sniffed}))
}

func (c *rule) matchesPort(port uint16) bool {
	return len(c.ports) == 0 || slices.ContainsFunc(c.ports, func(r netaddr.PortRange) bool { return r.Contains(port) })
}

// matchesLabel reports whether a single label is named. A name with dots is one
// of its own, which a search list must not stretch.
func (c *rule) matchesLabel(asked string) bool {
	_, ok := c.names[asked]
	return ok && !strings.Contains(asked, ".")
}

func (c *rule) matchesHost(dest wire.Addr) bool {
	switch {
	case c.any:
		return true
	case !dest.IsName():
		return c.prefixes != nil && c.prefixes.Contains(dest.IP)
	}
	if _, ok := c.names[dest.Name]; ok {
		return true
	}
	if c.suffixes == nil {
		return false
	}
	for rest := dest.Name; ; {
		_, parent, ok := strings.Cut(rest, ".")
		if !ok {
			return false
		}
		if _, ok := c.suffixes[parent]; ok {
			return true
		}
		rest = parent
	}
}

// apply is dest with what the rule rewrites.
func (c *rule) apply(dest wire.Addr) wire.Addr {
	if !c.rewrite.IsZero() {
		dest.IP, dest.Name = c.rewrite.IP, c.rewrite.Name
	}
	if c.rewrite.Port != 0 {
		dest.Port = c.rewrite.Port
	}
	return dest
}

func parseRewrite(s string) (wire.Addr, error) {
	if s == "" {
		return wire.Addr{}, nil
	}
	host, port, err := splitHostPort(s)
	if err != nil || host == "" || host == "*" {
		return wire.Addr{Port: port}, err
	}
	return wire.ParseHost(host, port)
}

// splitHostPort cuts at the last colon, so that an IPv6 address needs no
// brackets, as in microsocks.
func splitHostPort(s string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0, errors.New("want host:port")
	}
	port, err = netaddr.ParsePort(s[i+1:])
	if err != nil { // which repeats what may be a part of a password
		return "", 0, errors.New("the port is no number up to 65535")
	}
	return s[:i], port, nil
}
