package authsvc

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// Whitelist is no_password_from: clients that need no password. Nil holds
// nobody.
type Whitelist struct{ prefixes bart.Lite }

// NewWhitelist makes the list. Prefixes of v4-mapped addresses are to be
// IPv4 ones, as netaddr.ParsePrefix makes them.
func NewWhitelist(prefixes []netip.Prefix) *Whitelist {
	w := new(Whitelist)
	for _, p := range prefixes {
		w.prefixes.Insert(p.Masked())
	}
	return w
}

// Contains reports whether addr (unmapped) needs no password.
func (w *Whitelist) Contains(addr netip.Addr) bool {
	return w != nil && w.prefixes.Contains(addr)
}
