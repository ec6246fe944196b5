// Package metrics holds the daemon's metric handles. A package that counts is
// given the struct of handles of its topic and never looks a metric up by
// name on a hot path.
//
//	m := metrics.New()
//	m.Relay.BytesIn.Add(n)
//	m.WritePrometheus(w)
package metrics

import (
	"bytes"
	"io"

	vm "github.com/VictoriaMetrics/metrics"
)

// Registry is every handle of one daemon. Two registries share nothing, so
// tests can run beside each other.
type Registry struct {
	set *vm.Set

	Limits   CounterVec // bounds that were met, by name
	Daemon   Daemon
	Process  *Process // a service: run it
	Listener Listener
	Conn     Conn
	Relay    Relay
	Dial     Dial
	DNS      DNS
	Auth     Auth
	ACL      ACL
	Users    *Users
	UDP      UDP
	Bind     Bind
	Upstream Upstream
	Shared   *Shared
	Usage    Usage
}

// Labels are the values of labels that other packages name, since this one
// imports none of ours. A value that is not among them counts as "other".
type Labels struct {
	Protocols []string // that clients speak
	Causes    []string // for which tunnels end
	Methods   []string // by which clients are admitted
	Kinds     []string // of credentials that may be refused
	Panics    []string // the parts of the program that contain panics
}

// New makes a registry with all handles at zero and no Labels: enough for what
// counts and is not asked.
func New() *Registry { return With(Labels{}) }

// With makes a registry with all handles at zero.
func With(l Labels) *Registry {
	set := vm.NewSet()
	limits := newLimits(set)
	return &Registry{
		set:      set,
		Limits:   limits,
		Daemon:   newDaemon(set),
		Process:  &Process{},
		Listener: newListener(set),
		Conn:     newConn(set, l),
		Relay:    newRelay(set, l.Causes),
		Dial:     newDial(set),
		DNS:      newDNS(set, limits),
		Auth:     newAuth(set, l.Kinds),
		ACL:      newACL(set, limits),
		Users:    newUsers(set, limits),
		UDP:      newUDP(set),
		Bind:     newBind(set),
		Upstream: newUpstream(set),
		Shared:   newShared(set),
		Usage:    newUsage(set),
	}
}

// WritePrometheus writes all metrics, the process's and the Go runtime's
// included, in the Prometheus text format.
func (r *Registry) WritePrometheus(w io.Writer) {
	var text bytes.Buffer
	r.Users.sweep()
	r.set.WritePrometheus(&text)
	r.Process.write(&text)
	_ = expose(w, text.Bytes()) // the scraper left: nothing to do
}

// Gauge registers a value that is read by calling f when metrics are written.
func (r *Registry) Gauge(name string, f func() float64) { r.set.NewGauge(name, f) }
