//go:build !linux

package conn

import "net/netip"

// No session is without conns here.

func (rawEnd) close() {}

func (rawEnd) local() netip.AddrPort { return netip.AddrPort{} }
