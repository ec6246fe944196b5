package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"cleversocks/supervisor/config"
)

// foreignSources warns of source addresses that are not this machine's: each
// dial from them fails. They may be meant all the same, and come with an
// interface that is not up yet. Of a range nobody expects all addresses here.
func foreignSources(ctx context.Context, cfg *config.Config) []string {
	var warnings []string
	cfg.EachEgress(func(key string, ranges []netip.Prefix) {
		for _, s := range ranges {
			if s.IsSingleIP() && isForeign(ctx, s.Addr()) {
				text := fmt.Sprintf("no interface of this machine has the source address %s: connections from it will fail, unless it is to come", s.Addr())
				warnings = append(warnings, cfg.At(key, text, nil).Error())
			}
		}
	})
	return warnings
}

// isForeign asks the kernel, which also knows addresses that are routed here
// and on no interface.
func isForeign(ctx context.Context, ip netip.Addr) bool {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(ip, 0).String())
	if err == nil {
		_ = c.Close() // nothing was sent
	}
	return errors.Is(err, syscall.EADDRNOTAVAIL)
}
