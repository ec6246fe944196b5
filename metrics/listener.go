package metrics

import (
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// Reasons for which a connection is refused before it is served.
const (
	RefusedLimit       = "limit"       // max_connections
	RefusedIPLimit     = "ip_limit"    // max_connections_per_ip
	RefusedRate        = "rate"        // connection_rate
	RefusedBanned      = "banned"      // auth_failures
	RefusedDraining    = "draining"    // on the way out
	RefusedSource      = "source"      // allow_from, or no trusted proxy where one is required
	RefusedSilent      = "silent"      // a handshake that gave way where all places were taken
	RefusedDescriptors = "descriptors" // EMFILE, ENFILE, ENOMEM
)

// Listener counts what happens before a connection is served.
type Listener struct {
	set          *vm.Set
	Refused      CounterVec
	ProxyHeaders CounterVec // PROXY headers of trusted peers, by outcome
	TLS          CounterVec // TLS handshakes, by outcome
	SNI          CounterVec // what clients said first, by outcome
	TLSWaiting   *atomic.Int64
}

func newListener(set *vm.Set) Listener {
	return Listener{
		set: set,
		Refused: newCounterVec(set, "cleversocks_connections_refused_total", "reason",
			RefusedLimit, RefusedIPLimit, RefusedRate, RefusedBanned, RefusedDraining, RefusedDescriptors, RefusedSource, RefusedSilent),
		ProxyHeaders: newCounterVec(set, "cleversocks_proxy_headers_total", "outcome", "ok", "absent", "malformed"),
		TLS:          newCounterVec(set, "cleversocks_tls_handshakes_total", "outcome", "ok", "resumed", "failed", "refused"),
		TLSWaiting:   newGauge(set, "cleversocks_tls_waiting"),
		SNI: newCounterVec(set, "cleversocks_sni_total", "outcome",
			"named", "unnamed", "mismatch", "denied", "malformed", "unfinished"),
	}
}

// Accepted is the counter of connections that a listener accepted. Call it
// once per listener and keep the handle.
func (l Listener) Accepted(listener string) *Counter {
	return l.set.GetOrCreateCounter(series("cleversocks_connections_accepted_total", "listener", listener))
}

// Forget ends the series of a listener that a reload has removed.
func (l Listener) Forget(listener string) {
	l.set.UnregisterMetric(series("cleversocks_connections_accepted_total", "listener", listener))
}

// Expires shows until when something of a listener's TLS is good; the zero time
// ends the series.
func (l Listener) Expires(listener, what string, until time.Time) {
	name := series("cleversocks_tls_expires_timestamp_seconds", "listener", listener, "what", what)
	if until.IsZero() {
		l.set.UnregisterMetric(name)
		return
	}
	l.set.GetOrCreateGauge(name, nil).Set(float64(until.Unix()))
}
