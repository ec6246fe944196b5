package metrics

import (
	vm "github.com/VictoriaMetrics/metrics"
)

// Outcomes of a dial.
const (
	DialOK          = "ok"
	DialRefused     = "refused"
	DialUnreachable = "unreachable"
	DialTimeout     = "timeout"
	DialDenied      = "denied"    // every address was refused by the rules
	DialNotFound    = "not_found" // no such name, no address
	DialCancelled   = "cancelled" // the client left
	DialError       = "error"
)

// DialNone is the family of a dial that never had an address to try.
const DialNone = "none"

// Dial counts outgoing connections.
type Dial struct {
	duration map[[2]string]*vm.PrometheusHistogram
	attempts map[string]*vm.PrometheusHistogram
}

// Duration is the histogram of the time from the request to the connection
// or to the failure, in seconds, name resolution included. The family is that
// of the address that won, or of the one whose failure was told.
func (d Dial) Duration(family, outcome string) *vm.PrometheusHistogram {
	if h := d.duration[[2]string{family, outcome}]; h != nil {
		return h
	}
	return d.duration[[2]string{DialNone, DialError}]
}

// Attempts is the histogram of how many addresses of a family ("ipv4",
// "ipv6") one connection took.
func (d Dial) Attempts(family string) *vm.PrometheusHistogram { return d.attempts[family] }

func newDial(set *vm.Set) Dial {
	d := Dial{
		duration: make(map[[2]string]*vm.PrometheusHistogram),
		attempts: make(map[string]*vm.PrometheusHistogram),
	}
	bounds := []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}
	for _, family := range []string{"ipv4", "ipv6", DialNone} {
		for _, outcome := range []string{
			DialOK, DialRefused, DialUnreachable, DialTimeout, DialDenied, DialNotFound, DialCancelled, DialError,
		} {
			name := series("cleversocks_dial_duration_seconds", "family", family, "outcome", outcome)
			d.duration[[2]string{family, outcome}] = set.NewPrometheusHistogramExt(name, bounds)
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		name := series("cleversocks_dial_attempts", "family", family)
		d.attempts[family] = set.NewPrometheusHistogramExt(name, []float64{1, 2, 3, 4, 6, 8, 16, 32})
	}
	return d
}
