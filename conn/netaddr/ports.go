package netaddr

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"strings"
)

// PortRange is ports that follow each other, both ends included.
type PortRange struct {
	First, Last uint16
}

// Errors of ParsePortRange.
var (
	ErrPortRange    = errors.New("is neither a port (0 to 65535) nor a range like 465-587")
	ErrPortsReverse = errors.New("is a range that ends before it begins")
)

// ParsePortRange reads "25" or "465-587".
func ParsePortRange(s string) (PortRange, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	a, err := ParsePort(strings.TrimSpace(first))
	b, err2 := ParsePort(strings.TrimSpace(last))
	switch {
	case err != nil || err2 != nil:
		return PortRange{}, fmt.Errorf("%q %w", clip(s), ErrPortRange)
	case b < a:
		return PortRange{}, fmt.Errorf("%q %w", clip(s), ErrPortsReverse)
	}
	return PortRange{First: a, Last: b}, nil
}

// Contains reports whether the port is one of the range's.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// All yields every port once, from a random one on: the next port must not be
// for an outsider to guess, and a busy stretch is met at a different place
// each time. The zero range yields 0, which leaves the choice to the system.
func (r PortRange) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		size := int(r.Last) - int(r.First) + 1
		start := rand.IntN(size) //nolint:gosec // a guess only costs the guesser: peers are checked by address
		for i := range size {
			if !yield(r.First + uint16((start+i)%size)) {
				return
			}
		}
	}
}

// String is the range as it is written in settings.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}
