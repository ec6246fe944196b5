package metrics

import (
	"slices"
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Conn counts the life of connections up to the relay.
type Conn struct {
	Active     Active
	Handshakes CounterVec2 // by protocol and outcome
	Auth       CounterVec2 // by method and outcome
	Requests   CounterVec2 // by command and reply
	Refused    CounterVec  // requests that policy refused, by reason
	Panics     CounterVec  // by where
	// RecordsDropped are access records that a slow log had no place for.
	RecordsDropped *Counter
}

// Why policy refuses a request.
const (
	RefusedByRule    = "acl"
	RefusedUserLimit = "user_limit"     // the user's max_connections
	RefusedAddresses = "user_addresses" // the user's max_addresses
	RefusedQuota     = "quota"
	RefusedUnknown   = "shared_state" // which has to say, and does not answer
)

// Active counts the connections being served, by protocol.
type Active struct {
	gauges map[string]*atomic.Int64
}

// Of is the gauge of a protocol's connections; that of "other" for a protocol
// that nobody foresaw.
func (a Active) Of(protocol string) *atomic.Int64 {
	if n := a.gauges[protocol]; n != nil {
		return n
	}
	return a.gauges["other"]
}

// unspoken is the protocol of a connection that has not said a byte.
const unspoken = "unknown"

func newConn(set *vm.Set, l Labels) Conn {
	protocols := append(slices.Clone(l.Protocols), unspoken)
	c := Conn{
		Active: Active{gauges: make(map[string]*atomic.Int64, len(protocols))},
		Handshakes: newCounterVec2(set, "cleversocks_handshakes_total", [2]string{"protocol", "outcome"},
			protocols, []string{"ok", "malformed", "timeout", "closed", "refused"}),
		Auth: newCounterVec2(set, "cleversocks_auth_total", [2]string{"method", "outcome"},
			l.Methods, []string{"ok", "failed", "error"}),
		Requests: newCounterVec2(set, "cleversocks_requests_total", [2]string{"command", "reply"},
			[]string{"connect", "bind", "udp", "unknown"},
			[]string{
				"succeeded", "general_failure", "not_allowed", "network_unreachable", "host_unreachable",
				"connection_refused", "timed_out", "command_not_supported", "address_type_not_supported",
			}),
		Refused:        newCounterVec(set, "cleversocks_requests_refused_total", "reason", RefusedByRule, RefusedUserLimit, RefusedAddresses, RefusedQuota, RefusedUnknown),
		Panics:         newCounterVec(set, "cleversocks_panics_total", "where", l.Panics...),
		RecordsDropped: set.NewCounter("cleversocks_access_records_dropped_total"),
	}
	for _, p := range append(slices.Clip(protocols), "other") {
		n := new(atomic.Int64)
		c.Active.gauges[p] = n
		set.NewGauge(series("cleversocks_connections_active", "protocol", p), func() float64 { return float64(n.Load()) })
	}
	return c
}
