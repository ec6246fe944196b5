package udprelay

import "cleversocks/metrics"

// outcome is what became of a datagram.
type outcome uint8

const (
	relayed outcome = iota
	malformed
	wrongClient
	denied
	unresolved
	fragment
	overload
	limited
	filtered
	tooBig
	failed
	pending // its name is being resolved; counted when that is known
	outcomes
)

var outcomeNames = [outcomes]string{
	relayed: metrics.UDPRelayed, malformed: metrics.UDPMalformed, wrongClient: metrics.UDPWrongClient,
	denied: metrics.UDPDenied, unresolved: metrics.UDPUnresolved, fragment: metrics.UDPFragment,
	overload: metrics.UDPOverload, limited: metrics.UDPLimited, filtered: metrics.UDPFiltered,
	tooBig: metrics.UDPTooBig, failed: metrics.UDPError,
}

// counts holds the counter handles by direction and outcome.
type counts [2][outcomes]*metrics.Counter

func newCounts(m *metrics.Registry) counts {
	var c counts
	for i, name := range outcomeNames {
		c[FromClient][i] = m.UDP.Datagrams.Of("in", name)
		c[ToClient][i] = m.UDP.Datagrams.Of("out", name)
	}
	return c
}

// tally counts a batch before it is added to the shared counters, so that a
// datagram costs no atomic operation.
type tally [outcomes]int

// sent adds what a flush did.
func (t *tally) sent(f flushResult) {
	t[relayed] += f.sent
	t[failed] += f.failed
	t[tooBig] += f.tooBig
}
