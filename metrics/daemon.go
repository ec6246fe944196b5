package metrics

import (
	"fmt"

	vm "github.com/VictoriaMetrics/metrics"
)

// Daemon counts what happens to the daemon as a whole.
type Daemon struct {
	set     *vm.Set
	Reloads CounterVec // by outcome
}

func newDaemon(set *vm.Set) Daemon {
	return Daemon{set: set, Reloads: newCounterVec(set, "cleversocks_reloads_total", "outcome", "ok", "failed")}
}

// Restarts counts how often a service was started again after it failed. The
// services are few and have fixed names.
func (d Daemon) Restarts(service string) *Counter {
	return d.set.GetOrCreateCounter(fmt.Sprintf("cleversocks_service_restarts_total{service=%q}", service))
}

// BuildInfo sets the constant that says which build this is.
func (d Daemon) BuildInfo(version, commit, goVersion string) {
	d.set.NewGauge(fmt.Sprintf("cleversocks_build_info{version=%q,commit=%q,go=%q}", version, commit, goVersion),
		func() float64 { return 1 })
}

// LogLost makes lost the counter of the log lines that could not be written.
func (d Daemon) LogLost(lost func() uint64) {
	d.set.NewGauge("cleversocks_log_lines_lost_total", func() float64 { return float64(lost()) })
}
