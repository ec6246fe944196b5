package config

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/pflag"
)

// resolveTimeout bounds the look-up of one listen address's name.
const resolveTimeout = 5 * time.Second

// finisher is what a section needs to read files and judge combinations.
type finisher struct {
	*problems
	ctx   context.Context //nolint:containedctx // lives for one call of Load
	cfg   *Config
	flags *pflag.FlagSet // nil: none
}

// finish runs the sections' finishers.
func (r *run) finish(ctx context.Context, flags *pflag.FlagSet) {
	f := &finisher{problems: &r.problems, ctx: ctx, cfg: r.cfg, flags: flags}
	for _, section := range r.cfg.finishers() {
		section(f)
	}
}

func (f *finisher) warn(format string, args ...any) {
	f.cfg.Warnings = append(f.cfg.Warnings, fmt.Sprintf(format, args...))
}

// resolve replaces the name in a listen address by its first IPv4 address,
// or its first address when it has no IPv4.
func (f *finisher) resolve(key string, o origin, a *ListenAddress) {
	if a.Host == "" {
		return
	}
	ctx, cancel := context.WithTimeout(f.ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", a.Host)
	if err != nil || len(ips) == 0 {
		f.add(o, key, "the name %q has no address: %v", a.Host, err)
		return
	}
	best := ips[0].Unmap()
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() {
			best = ip
			break
		}
	}
	*a = ListenAddress{AddrPort: netip.AddrPortFrom(best, a.AddrPort.Port())}
}
