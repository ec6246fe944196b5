package aclsvc

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// special is a range of addresses with a meaning of its own.
type special struct {
	prefix string
	name   string // as the registry has it, with its RFC; ours where there is no entry
	// public: hosts on the internet, within a range that is not.
	public bool
}

// specials are what block_private denies: what the IANA IPv4 and IPv6
// Special-Purpose Address Registries do not call globally reachable, multicast,
// and the metadata services of clouds that have public numbers. Ranges whose
// addresses carry an IPv4 address (see wellKnown) are public here, as the
// carried one is judged.
var specials = [...]special{
	{"0.0.0.0/8", `"This network" (RFC 791 §3.2); Linux connects 0.0.0.0 to itself`, false},
	{"10.0.0.0/8", "Private-Use (RFC 1918)", false},
	{"100.64.0.0/10", "Shared Address Space (RFC 6598), with Alibaba's metadata 100.100.100.200", false},
	{"127.0.0.0/8", "Loopback (RFC 1122 §3.2.1.3)", false},
	{"168.63.129.16/32", "Azure's host agent, a public number that never leaves the host", false},
	{"169.254.0.0/16", "Link Local (RFC 3927), with the metadata service 169.254.169.254", false},
	{"172.16.0.0/12", "Private-Use (RFC 1918)", false},
	{"192.0.0.0/24", "IETF Protocol Assignments (RFC 6890 §2.1), with Oracle's metadata 192.0.0.192", false},
	{"192.0.0.9/32", "Port Control Protocol Anycast (RFC 7723)", true},
	{"192.0.0.10/32", "Traversal Using Relays around NAT Anycast (RFC 8155)", true},
	{"192.0.2.0/24", "Documentation (TEST-NET-1) (RFC 5737)", false},
	{"192.31.196.0/24", "AS112-v4 (RFC 7535)", true},
	{"192.52.193.0/24", "AMT (RFC 7450)", true},
	{"192.88.99.0/24", "Deprecated (6to4 Relay Anycast) (RFC 7526)", false},
	{"192.168.0.0/16", "Private-Use (RFC 1918)", false},
	{"192.175.48.0/24", "Direct Delegation AS112 Service (RFC 7534)", true},
	{"198.18.0.0/15", "Benchmarking (RFC 2544)", false},
	{"198.51.100.0/24", "Documentation (TEST-NET-2) (RFC 5737)", false},
	{"203.0.113.0/24", "Documentation (TEST-NET-3) (RFC 5737)", false},
	{"224.0.0.0/4", "Multicast (RFC 5771)", false},
	{"240.0.0.0/4", "Reserved (RFC 1112 §4), with the Limited Broadcast (RFC 8190)", false},

	{"::/128", "Unspecified Address (RFC 4291)", false},
	{"::1/128", "Loopback Address (RFC 4291)", false},
	{"64:ff9b::/96", "IPv4-IPv6 Translat. (RFC 6052)", true},
	{"64:ff9b:1::/48", "IPv4-IPv6 Translat. (RFC 8215): its layout is the network's own", false},
	{"100::/64", "Discard-Only Address Block (RFC 6666)", false},
	{"100:0:0:1::/64", "Dummy IPv6 Prefix (RFC 9780)", false},
	{"2001::/23", "IETF Protocol Assignments (RFC 2928)", false},
	{"2001::/32", "TEREDO (RFC 4380)", true},
	{"2001:1::1/128", "Port Control Protocol Anycast (RFC 7723)", true},
	{"2001:1::2/128", "Traversal Using Relays around NAT Anycast (RFC 8155)", true},
	{"2001:1::3/128", "DNS-SD Service Registration Protocol Anycast (RFC 9665)", true},
	{"2001:2::/48", "Benchmarking (RFC 5180)", false},
	{"2001:3::/32", "AMT (RFC 7450)", true},
	{"2001:4:112::/48", "AS112-v6 (RFC 7535)", true},
	{"2001:10::/28", "Deprecated (previously ORCHID) (RFC 4843)", false},
	{"2001:20::/28", "ORCHIDv2 (RFC 7343)", true},
	{"2001:30::/28", "Drone Remote ID Protocol Entity Tags (DETs) Prefix (RFC 9374)", true},
	{"2001:db8::/32", "Documentation (RFC 3849)", false},
	{"2002::/16", "6to4 (RFC 3056)", true},
	{"2620:4f:8000::/48", "Direct Delegation AS112 Service (RFC 7534)", true},
	{"3fff::/20", "Documentation (RFC 9637)", false},
	{"5f00::/16", "Segment Routing (SRv6) SIDs (RFC 9602)", false},
	{"fc00::/7", "Unique-Local (RFC 4193, RFC 8190), with the metadata service fd00:ec2::254", false},
	{"fe80::/10", "Link-Local Unicast (RFC 4291)", false},
	{"fec0::/10", "Site-Local, deprecated (RFC 3879)", false},
	{"ff00::/8", "Multicast (RFC 4291)", false},
}

// specialTable is specials by address.
type specialTable struct{ table bart.Table[*special] }

func newSpecialTable() *specialTable {
	t := new(specialTable)
	for i := range specials {
		t.table.Insert(netip.MustParsePrefix(specials[i].prefix), &specials[i])
	}
	return t
}

// denies reports whether addr is no host on the internet. The longest range
// that it is in decides.
func (t *specialTable) denies(addr netip.Addr) bool {
	s, ok := t.table.Lookup(addr)
	return ok && !s.public
}

// name is what the registry calls addr, or "".
func (t *specialTable) name(addr netip.Addr) string {
	if s, ok := t.table.Lookup(addr); ok {
		return s.name
	}
	return ""
}
