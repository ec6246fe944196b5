package dial

import (
	"net/netip"
	"sync"

	"cleversocks/conn/netaddr"
)

// Spares are the descriptors that races may take beyond the one of their
// connection, for all of them together, of which one client has at most a
// quarter: names with dozens of silent addresses, asked for by one client, must
// not take the races of the others. A nil Spares has no end.
type Spares struct {
	most int    // for one client
	full func() // hears of each one that was not to be had; nil: nobody does

	mu      sync.Mutex
	free    int
	clients map[netip.Addr]int // that hold some, by netaddr.SourceKey
}

// NewSpares makes so many. full hears of each that is refused; nil: nobody does.
func NewSpares(n int, full func()) *Spares {
	return &Spares{free: n, full: full, most: max(n/4, 1), clients: make(map[netip.Addr]int)}
}

// take is one more for a client, if there is one.
func (s *Spares) take(client netip.Addr) bool {
	if s == nil {
		return true
	}
	taken := s.tryTake(netaddr.SourceKey(client))
	if !taken && s.full != nil {
		s.full()
	}
	return taken
}

func (s *Spares) tryTake(key netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == 0 || key.IsValid() && s.clients[key] >= s.most {
		return false
	}
	s.free--
	if key.IsValid() {
		s.clients[key]++
	}
	return true
}

// give returns one.
func (s *Spares) give(client netip.Addr) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	key := netaddr.SourceKey(client)
	if !key.IsValid() {
		return
	}
	if s.clients[key]--; s.clients[key] == 0 {
		delete(s.clients, key)
	}
}
