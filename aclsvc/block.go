package aclsvc

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// ResolveBlockPrivate is the acl.block_private in force: "true", "false", or
// "auto", which is true once there is a rule.
func ResolveBlockPrivate(setting string, rules int) (bool, error) {
	switch setting {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "auto", "":
		return rules > 0, nil
	}
	return false, fmt.Errorf("acl.block_private: %q: true, false or auto", clip(setting))
}

// blockList is what block_private denies: everything that is not a host on
// the internet, or that is a cloud's metadata service.
func blockList() *bart.Lite {
	var list bart.Lite
	for _, s := range [...]string{
		"0.0.0.0/8",        // this network (RFC 1122); Linux connects 0.0.0.0 to itself
		"10.0.0.0/8",       // RFC 1918
		"100.64.0.0/10",    // CGNAT (RFC 6598), with Alibaba's metadata 100.100.100.200
		"127.0.0.0/8",      // loopback
		"168.63.129.16/32", // Azure's host agent, a public number that never leaves the host
		"169.254.0.0/16",   // link-local, with the metadata service 169.254.169.254
		"172.16.0.0/12",    // RFC 1918
		"192.0.0.0/24",     // IETF protocol assignments, with Oracle's metadata 192.0.0.192
		"192.168.0.0/16",   // RFC 1918
		"198.18.0.0/15",    // benchmarking (RFC 2544)
		"224.0.0.0/4",      // multicast
		"240.0.0.0/4",      // reserved, with the broadcast address
		"::/128",           // unspecified
		"::1/128",          // loopback
		"64:ff9b:1::/48",   // NAT64 for local use (RFC 8215): its layout is the network's own
		"100::/64",         // discard (RFC 6666)
		"fc00::/7",         // ULA, with the metadata service fd00:ec2::254
		"fe80::/10",        // link-local
		"fec0::/10",        // site-local (RFC 3879)
		"ff00::/8",         // multicast
	} {
		list.Insert(netip.MustParsePrefix(s))
	}
	return &list
}
