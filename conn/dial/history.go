package dial

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

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
// destinations, those asked for last, and a while. It is safe for use by many
// goroutines.
type History struct {
	mu  sync.Mutex
	won *simplelru.LRU[wire.Addr, winner]
}

type winner struct {
	addr netip.Addr
	at   time.Time
}

// NewHistory makes a History of at most so many destinations.
func NewHistory(most int) *History {
	won, _ := simplelru.NewLRU[wire.Addr, winner](max(most, 1), nil) // fails for sizes below 1
	return &History{won: won}
}

// last is the address that won for a destination; invalid: none known.
func (h *History) last(dest wire.Addr) netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, ok := h.won.Get(dest)
	if !ok {
		return netip.Addr{}
	}
	if time.Since(w.at) > historyLife {
		h.won.Remove(dest)
		return netip.Addr{}
	}
	return w.addr
}

// record notes that an address won. The time of the first win in a row stays,
// so that a busy destination is ordered anew once in a while, too.
func (h *History) record(dest wire.Addr, addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w, ok := h.won.Peek(dest); !ok || w.addr != addr {
		h.won.Add(dest, winner{addr: addr, at: time.Now()})
	}
}

// forget drops what is known of a destination, when it was this address.
func (h *History) forget(dest wire.Addr, addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w, ok := h.won.Peek(dest); ok && w.addr == addr {
		h.won.Remove(dest)
	}
}
