package aclsvc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
)

// Locals is a snapshot of the host's own addresses, for listeners on a
// wildcard address. Serve keeps it fresh; reading it takes no lock.
type Locals struct {
	interval time.Duration
	list     func() ([]netip.Prefix, error)
	onError  func(error)
	ranges   atomic.Pointer[bart.Lite]
}

// LocalsOptions says how the host's addresses are found.
type LocalsOptions struct {
	Interval time.Duration // between two looks; 0: 10 s
	// List gives the addresses and ranges that the host takes for its own; nil:
	// what the kernel's local table holds, and the interfaces' addresses.
	List    func() ([]netip.Prefix, error)
	OnError func(error) // told when a look fails; the last snapshot stays
}

// NewLocals takes the first snapshot.
func NewLocals(o LocalsOptions) (*Locals, error) {
	l := &Locals{interval: o.Interval, list: o.List, onError: o.OnError}
	if l.interval <= 0 {
		l.interval = 10 * time.Second
	}
	if l.list == nil {
		l.list = hostRanges
	}
	return l, l.Refresh()
}

// Refresh takes a new snapshot; on error the last one stays.
func (l *Locals) Refresh() error {
	list, err := l.list()
	if err != nil {
		return fmt.Errorf("own addresses: %w", err)
	}
	ranges := new(bart.Lite)
	for _, p := range list {
		ranges.Insert(p.Masked())
	}
	l.ranges.Store(ranges)
	return nil
}

// interfaceAddrs are the addresses of the host's interfaces.
func interfaceAddrs() ([]netip.Prefix, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ip = ip.Unmap()
				out = append(out, netip.PrefixFrom(ip, ip.BitLen()))
			}
		}
	}
	return out, nil
}

// Serve refreshes the snapshot until ctx ends.
func (l *Locals) Serve(ctx context.Context) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := l.Refresh(); err != nil && l.onError != nil {
				l.onError(err)
			}
		}
	}
}

// String names the service.
func (l *Locals) String() string { return "own addresses" }

// Contains reports whether addr (unmapped, without a zone) is this host:
// loopback, unspecified, an interface's, or routed here as a local one. A nil
// Locals knows the first two.
func (l *Locals) Contains(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	if l == nil {
		return false
	}
	ranges := l.ranges.Load()
	return ranges != nil && ranges.Contains(addr)
}

// isHost reports whether addr reaches this host, as far as it can know.
func (p *Policy) isHost(addr netip.Addr) bool {
	return p.locals.Contains(addr) || p.hosts.Contains(addr) || slices.Contains(p.advertised, addr)
}

// IsOwn reports whether a connection to addr and port would reach one of the
// proxy's listeners.
func (p *Policy) IsOwn(addr netip.Addr, port uint16) bool {
	t := p.target(addr, "")
	return p.isOwn(t.inner, port) || t.bits != 0 && p.isOwn(t.outer, port)
}

// isOwn reports whether addr and port reach one of the proxy's listeners. A
// wildcard listener is any local address; and an unspecified destination is
// whatever listens on the host, since the kernel takes it for loopback.
func (p *Policy) isOwn(addr netip.Addr, port uint16) bool {
	for _, l := range p.listeners {
		if l.Port() != port {
			continue
		}
		switch own := l.Addr(); {
		case own == addr, addr.IsUnspecified():
			return true
		case slices.Contains(p.advertised, addr):
			return true
		case own.IsUnspecified() && p.isHost(addr):
			return true
		}
	}
	return false
}
