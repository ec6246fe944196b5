package metrics

import (
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// Daemon counts what happens to the daemon as a whole.
type Daemon struct {
	set     *vm.Set
	Reloads CounterVec // by outcome
	// Upgrades are by outcome, over all processes that handed over to this one.
	Upgrades CounterVec
	loads    *loads
}

// loads is what the last loading of the configuration came to.
type loads struct {
	successful atomic.Bool
	at         atomic.Int64 // of the last one that was, in Unix nanoseconds
}

func newDaemon(set *vm.Set) Daemon {
	d := Daemon{set: set, Reloads: newCounterVec(set, "cleversocks_reloads_total", "outcome", "ok", "failed"), loads: new(loads)}
	d.Upgrades = newCounterVec(set, "cleversocks_upgrades_total", "outcome", "ok", "failed", "refused")
	set.NewGauge("cleversocks_config_last_reload_successful", func() float64 {
		if d.loads.successful.Load() {
			return 1
		}
		return 0
	})
	set.NewGauge("cleversocks_config_last_reload_success_timestamp_seconds", func() float64 {
		return float64(d.loads.at.Load()) / 1e9
	})
	return d
}

// Predecessors makes connections the gauge of those that processes of before
// upgrades still have.
func (d Daemon) Predecessors(connections func() int) {
	d.set.NewGauge("cleversocks_predecessor_connections", func() float64 { return float64(connections()) })
}

// Loaded notes whether the configuration could be put in force: at the start,
// and on each reload.
func (d Daemon) Loaded(successful bool) {
	if successful {
		d.loads.at.Store(time.Now().UnixNano())
	}
	d.loads.successful.Store(successful)
}

// Restarts counts how often a service was started again after it failed. The
// services are few and have fixed names.
func (d Daemon) Restarts(service string) *Counter {
	return d.set.GetOrCreateCounter(series("cleversocks_service_restarts_total", "service", service))
}

// Forget ends the series of a service that a reload has removed.
func (d Daemon) Forget(service string) {
	d.set.UnregisterMetric(series("cleversocks_service_restarts_total", "service", service))
}

// BuildInfo sets the constant that says which build this is.
func (d Daemon) BuildInfo(version, commit, goVersion string) {
	d.set.NewGauge(series("cleversocks_build_info", "version", version, "commit", commit, "go", goVersion),
		func() float64 { return 1 })
}

// LogLost makes lost the counter of the log lines that could not be written.
func (d Daemon) LogLost(lost func() uint64) {
	d.set.NewGauge("cleversocks_log_lines_lost_total", func() float64 { return float64(lost()) })
}
