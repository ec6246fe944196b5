package metrics

import (
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// What came of a BIND's wait, or of one peer during it.
const (
	BindAccepted     = "accepted"
	BindWrongPeer    = "wrong_peer"    // not the host that the client named
	BindDenied       = "denied"        // by the rules
	BindTimeout      = "timeout"       // bind.accept_timeout
	BindClientClosed = "client_closed" // the control connection ended first
	BindRefused      = "refused"       // disabled, a cap, no port, an unresolvable name
)

// Bind counts the connections that clients wait for.
type Bind struct {
	Waiting *atomic.Int64
	Peers   CounterVec // by outcome
}

func newBind(set *vm.Set) Bind {
	b := Bind{
		Waiting: new(atomic.Int64),
		Peers: newCounterVec(set, "cleversocks_bind_peers_total", "outcome",
			BindAccepted, BindWrongPeer, BindDenied, BindTimeout, BindClientClosed, BindRefused),
	}
	set.NewGauge("cleversocks_bind_waiting", func() float64 { return float64(b.Waiting.Load()) })
	return b
}
