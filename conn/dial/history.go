package dial

import (
	"net/netip"
	"sync"
	"time"

	"cleversocks/conn/wire"
)

const (
	defaultHistory = 4096
	// historyLife is how long a winner is tried first. Later the order of
	// RFC 6724 decides again, so that a family that was down for a while is
	// not avoided for ever (RFC 8305 §4).
	historyLife = 10 * time.Minute
)

// History remembers which address won for a destination, for a number of
// destinations and a while. It is safe for use by many goroutines.
type History struct {
	mu   sync.Mutex
	most int
	won  map[wire.Addr]winner
}

type winner struct {
	addr netip.Addr
	at   time.Time
}

// NewHistory makes a History of at most so many destinations.
func NewHistory(most int) *History {
	return &History{most: max(most, 1), won: make(map[wire.Addr]winner)}
}

// last is the address that won for a destination; invalid: none known.
func (h *History) last(dest wire.Addr) netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, ok := h.won[dest]
	if !ok {
		return netip.Addr{}
	}
	if time.Since(w.at) > historyLife {
		delete(h.won, dest)
		return netip.Addr{}
	}
	return w.addr
}

// record notes that an address won. The time of the first win in a row stays,
// so that a busy destination is ordered anew once in a while, too.
func (h *History) record(dest wire.Addr, addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w, ok := h.won[dest]; ok && w.addr == addr {
		return
	}
	if len(h.won) >= h.most {
		for old := range h.won { // any one: map order is as good as random
			delete(h.won, old)
			break
		}
	}
	h.won[dest] = winner{addr: addr, at: time.Now()}
}

// forget drops what is known of a destination, when it was this address.
func (h *History) forget(dest wire.Addr, addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.won[dest].addr == addr {
		delete(h.won, dest)
	}
}
