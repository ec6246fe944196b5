package metrics

import (
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// What became of an event that is pushed to the usage endpoint.
const (
	UsageSent     = "sent"
	UsageLost     = "lost"     // there was no room for it
	UsageRejected = "rejected" // the endpoint said that it will never take it
)

// Usage counts what is pushed to the usage endpoint.
type Usage struct {
	Events CounterVec    // by outcome
	Pushes CounterVec    // attempts, by outcome: ok, failed, rejected
	Spool  *atomic.Int64 // bytes that wait
}

func newUsage(set *vm.Set) Usage {
	return Usage{
		Events: newCounterVec(set, "cleversocks_usage_events_total", "outcome", UsageSent, UsageLost, UsageRejected),
		Pushes: newCounterVec(set, "cleversocks_usage_pushes_total", "outcome", "ok", "failed", "rejected"),
		Spool:  newGauge(set, "cleversocks_usage_spool_bytes"),
	}
}
