package metrics

import (
	"sync"
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Upstream counts what goes through other proxies, by pool and member.
type Upstream struct {
	set     *vm.Set
	mu      *sync.Mutex
	members map[[2]string]*UpstreamMember
}

// UpstreamMember is the handles of one member of a pool.
type UpstreamMember struct {
	Up       atomic.Int64 // 1 while it is believed to work
	Active   atomic.Int64 // tunnels through it
	Warm     atomic.Int64 // connections kept ready
	Failures *Counter     // of its own: not those of a destination behind it
	Latency  *vm.PrometheusHistogram

	names []string
}

func newUpstream(set *vm.Set) Upstream {
	return Upstream{set: set, mu: new(sync.Mutex), members: make(map[[2]string]*UpstreamMember)}
}

// Member is the handles of a pool's member, made at the first call. The label
// must be free of credentials.
func (u Upstream) Member(upstream, member string) *UpstreamMember {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := [2]string{upstream, member}
	if m := u.members[key]; m != nil {
		return m
	}
	m := new(UpstreamMember)
	name := func(metric string) string {
		full := series("cleversocks_upstream_"+metric, "upstream", upstream, "member", member)
		m.names = append(m.names, full)
		return full
	}
	gauge := func(metric string, of *atomic.Int64) {
		u.set.NewGauge(name(metric), func() float64 { return float64(of.Load()) })
	}
	gauge("up", &m.Up)
	gauge("active", &m.Active)
	gauge("warm", &m.Warm)
	m.Failures = u.set.NewCounter(name("failures_total"))
	m.Latency = u.set.NewPrometheusHistogramExt(name("handshake_duration_seconds"),
		[]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10})
	u.members[key] = m
	return m
}

// Forget drops the handles of a member that a reload took away, so that a
// pool whose members come and go does not grow the metrics without end.
func (u Upstream) Forget(upstream, member string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := [2]string{upstream, member}
	if m := u.members[key]; m != nil {
		for _, name := range m.names {
			u.set.UnregisterMetric(name)
		}
		delete(u.members, key)
	}
}
