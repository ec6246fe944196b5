package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"cleversocks/conn/netaddr"
)

// resolveTimeout bounds the look-up of one listen address's name.
const resolveTimeout = 5 * time.Second

// errNoAddress is a name that exists and has no address.
var errNoAddress = errors.New("it has no address record")

// hostNames resolves the names of listen addresses and of flags, and remembers what they
// meant: a reload while DNS is down must not fail for a socket that is open.
type hostNames struct {
	lookUp func(ctx context.Context, network, host string) ([]netip.Addr, error)
	known  map[string]netip.Addr
}

func newHostNames() hostNames {
	return hostNames{lookUp: net.DefaultResolver.LookupNetIP, known: make(map[string]netip.Addr)}
}

// address is a name's first IPv4 address, or its first one when it has no
// IPv4. Where that cannot be told now it is what the name meant the last time,
// if there was one, with the error; otherwise it is invalid.
func (n *hostNames) address(ctx context.Context, host string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := n.lookUp(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return n.known[host], cmp.Or(err, errNoAddress)
	}
	best := ips[0].Unmap()
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() {
			best = ip
			break
		}
	}
	n.known[host] = best
	return best, nil
}

// addressesOf is a flag's list with addresses in the place of the names of hosts,
// which microsocks and CleverSocks 1 took in -w and -b. Files take none: there a name
// would be a slip in a list of addresses.
func (r *run) addressesOf(list, key string, o origin) string {
	if r.lookUp == nil || list == "" {
		return list
	}
	var out []string
	for text := range strings.SplitSeq(list, ",") {
		host := strings.TrimSpace(text)
		if _, err := netaddr.ParsePrefix(host); err == nil || !plausibleName(host) {
			out = append(out, text)
			continue
		}
		ip, err := r.lookUp(host)
		switch {
		case !ip.IsValid():
			r.add(o, key, "the name %q cannot be resolved: %v", clip(host), err)
			continue
		case err != nil:
			r.cfg.Warnings = append(r.cfg.Warnings, fmt.Sprintf("%s: the name %q cannot be resolved now (%v): %s, which it was before, stays", key, clip(host), err, ip))
		}
		out = append(out, ip.String())
	}
	return strings.Join(out, ",")
}

// resolve replaces the name in a listen address by its address.
func (f *finisher) resolve(key string, o origin, a *ListenAddress) {
	if a.Host == "" {
		return
	}
	ip, err := f.names.address(f.ctx, a.Host)
	switch {
	case !ip.IsValid():
		f.add(o, key, "the name %q cannot be resolved: %v", a.Host, err)
		return
	case err != nil:
		f.warn("%s: the name %q cannot be resolved now (%v): %s, which it was before, stays", key, a.Host, err, ip)
	}
	*a = ListenAddress{AddrPort: netip.AddrPortFrom(ip, a.AddrPort.Port())}
}
