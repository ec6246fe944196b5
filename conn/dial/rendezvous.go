package dial

import (
	"hash/fnv"
	"net/netip"
	"slices"
)

// Weight is how much a session is drawn to a candidate, by rendezvous hashing:
// of several it takes the heaviest. It is the same in every process, and when a
// candidate goes, only its own sessions take another. Do not change it: sessions
// would move between replicas of two versions.
func Weight(session, candidate string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(session)) // never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(candidate))
	// FNV's high bits hardly depend on the last bytes: the finalizer of
	// MurmurHash3 spreads them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// heaviest is the prefix that a session is drawn to.
func heaviest(session string, list []netip.Prefix) netip.Prefix {
	return slices.MaxFunc(list, func(a, b netip.Prefix) int {
		x, y := Weight(session, a.String()), Weight(session, b.String())
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return b.Addr().Compare(a.Addr())
	})
}

// noiseOf is random bytes, the same for a session and a prefix each time.
func noiseOf(session string, p netip.Prefix) func(noise []byte) {
	turn := byte(0)
	return func(noise []byte) {
		turn++
		for i := range noise {
			noise[i] = byte(Weight(session, p.String()+string([]byte{0, turn, byte(i)})))
		}
	}
}
