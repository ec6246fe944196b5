package wire

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"strings"
)

// PortRange is the ports that UDP ASSOCIATE or BIND may open, both ends
// included. The zero PortRange leaves the choice to the system.
type PortRange struct {
	First, Last uint16
}

// ErrPortRange is wrapped by the errors of ParsePortRange.
var ErrPortRange = errors.New(`expected "", a port or "first-last"`)

// ParsePortRange reads "40000-40999", a single port, or nothing.
func ParsePortRange(s string) (PortRange, error) {
	if s == "" {
		return PortRange{}, nil
	}
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	a, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	if err != nil {
		return PortRange{}, fmt.Errorf("%q: %w", clip(s), ErrPortRange)
	}
	b, err := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if err != nil || a == 0 || b < a {
		return PortRange{}, fmt.Errorf("%q: %w", clip(s), ErrPortRange)
	}
	return PortRange{First: uint16(a), Last: uint16(b)}, nil
}

// All yields every port once, from a random one on: the next port must not be
// for an outsider to guess, and a busy stretch is met at a different place
// each time. The zero range yields 0 once, the system's choice.
func (r PortRange) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		if r == (PortRange{}) {
			yield(0)
			return
		}
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
	switch {
	case r == (PortRange{}):
		return ""
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}
