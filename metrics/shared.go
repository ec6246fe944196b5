package metrics

import (
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Outcomes of a call to the shared state.
const (
	SharedOK       = "ok"
	SharedTimeout  = "timeout"
	SharedError    = "error"
	SharedBusy     = "busy"     // not made: too many were in flight
	SharedDown     = "down"     // not made: the store does not answer
	SharedCanceled = "canceled" // who asked has left
)

// Shared counts what a replica asks of the shared state.
type Shared struct {
	Up         *atomic.Int64 // 1 while the store answers
	Replicas   *atomic.Int64 // that live, this one included
	Calls      CounterVec2   // by call and outcome
	Duration   *vm.PrometheusHistogram
	Outages    *Counter
	Alone      *Counter    // decisions that were made without the store
	Surplus    *Counter    // connections that were ended by a late answer
	Dropped    *Counter    // calls and events that were given up
	Events     CounterVec2 // by direction and event
	EventDelay *vm.PrometheusHistogram
}

func newShared(set *vm.Set) *Shared {
	buckets := []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1}
	return &Shared{
		Up:       newGauge(set, "cleversocks_shared_up"),
		Replicas: newGauge(set, "cleversocks_shared_replicas"),
		Calls: newCounterVec2(set, "cleversocks_shared_calls_total", [2]string{"call", "outcome"},
			[]string{"enter", "beat", "fleet", "fail", "lift", "once", "quota", "usage", "event", "list"},
			[]string{SharedOK, SharedTimeout, SharedError, SharedBusy, SharedDown, SharedCanceled}),
		Duration: set.NewPrometheusHistogramExt("cleversocks_shared_call_duration_seconds", buckets),
		Outages:  set.NewCounter("cleversocks_shared_outages_total"),
		Alone:    set.NewCounter("cleversocks_shared_alone_total"),
		Surplus:  set.NewCounter("cleversocks_shared_surplus_total"),
		Dropped:  set.NewCounter("cleversocks_shared_dropped_total"),
		Events: newCounterVec2(set, "cleversocks_shared_events_total", [2]string{"direction", "event"},
			[]string{"sent", "received"},
			[]string{"join", "left", "ban", "unban", "once", "revoke", "kill", "out", "in", "tighten", "mark", "reset"}),
		EventDelay: set.NewPrometheusHistogramExt("cleversocks_shared_event_delay_seconds", buckets),
	}
}
