package ratelimit

import (
	"net/netip"
	"sync"

	"cleversocks/conn/netaddr"
)

// Seat is whom something counts for: a user, or the source of a client without
// a name, which for IPv6 is its /64.
type Seat struct {
	user   string
	source netip.Addr
}

// SeatOf is the seat of a client at an address. An invalid address, of a
// client on a unix socket, is a seat too.
func SeatOf(user string, client netip.Addr) Seat {
	if user != "" {
		return Seat{user: user}
	}
	return Seat{source: netaddr.SourceKey(client)}
}

// Seats count how many of something each seat has, and all of them together.
// The zero value is ready. The bounds are given with each call, since a reload
// may have moved them.
type Seats struct {
	mu    sync.Mutex
	taken map[Seat]int
	all   int
	// away and elsewhere are as all and taken, of other processes.
	away      int
	elsewhere map[Seat]int
}

// Bounds are how many there may be; 0 is no bound.
type Bounds struct {
	PerSeat int // of one seat, in all processes
	Total   int // of all seats, in all processes
	Here    int // of all seats, in this process
}

// Take gives a seat one more, unless it has its bound already (TooMany) or all
// of them have theirs (Full). Whoever is Admitted owes a Return.
func (s *Seats) Take(seat Seat, b Bounds) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case b.Total > 0 && s.all+s.away >= b.Total, b.Here > 0 && s.all >= b.Here:
		return Full
	case b.PerSeat > 0 && s.taken[seat]+s.elsewhere[seat] >= b.PerSeat:
		return TooMany
	}
	if s.taken == nil {
		s.taken = make(map[Seat]int)
	}
	s.taken[seat]++
	s.all++
	return Admitted
}

// Return gives one back.
func (s *Seats) Return(seat Seat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.taken[seat]--; s.taken[seat] <= 0 {
		delete(s.taken, seat)
	}
}
