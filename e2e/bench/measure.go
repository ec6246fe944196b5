//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// unit is what a figure is, and how it is read.
type unit struct {
	title  string
	format string
}

// value is one figure of one turn; name is a key of units.
type value struct {
	name   string
	number float64
}

// measurement is one kind of load. To add one, write its run, list it in
// measurements and its figures, in order, in figures.
type measurement struct {
	name    string
	figures []string
	// carries is what a proxy must do to be measured.
	carries carries
	run     func(ctx context.Context, o options, p *instance) ([]value, error)
}

var units = map[string]unit{
	"bulk.rate":        {"bulk, 1 stream, GiB/s", "%.2f"},
	"bulk.cpu":         {"bulk, 1 stream, CPU s/GiB", "%.3f"},
	"bulk8.rate":       {"bulk, 8 streams, GiB/s", "%.2f"},
	"bulk8.cpu":        {"bulk, 8 streams, CPU s/GiB", "%.3f"},
	"echo.p50":         {"64-byte echo, 1 connection, p50, µs", "%.0f"},
	"echo.p99":         {"64-byte echo, 1 connection, p99, µs", "%.0f"},
	"echo.rate":        {"64-byte echo, 1 connection, round trips/s", "%.0f"},
	"echo.cpu":         {"64-byte echo, 1 connection, CPU µs each", "%.1f"},
	"echo64.p50":       {"64-byte echo, 64 connections, p50, µs", "%.0f"},
	"echo64.p99":       {"64-byte echo, 64 connections, p99, µs", "%.0f"},
	"echo64.rate":      {"64-byte echo, 64 connections, round trips/s", "%.0f"},
	"echo64.cpu":       {"64-byte echo, 64 connections, CPU µs each", "%.1f"},
	"echo8.p99":        {"64-byte echo, 8 connections, p99, µs", "%.0f"},
	"echo8.rate":       {"64-byte echo, 8 connections, round trips/s", "%.0f"},
	"echo8.cpu":        {"64-byte echo, 8 connections, CPU µs each", "%.1f"},
	"echo16.p99":       {"64-byte echo, 16 connections, p99, µs", "%.0f"},
	"echo16.rate":      {"64-byte echo, 16 connections, round trips/s", "%.0f"},
	"echo16.cpu":       {"64-byte echo, 16 connections, CPU µs each", "%.1f"},
	"echo256.p99":      {"64-byte echo, 256 connections, p99, µs", "%.0f"},
	"echo256.rate":     {"64-byte echo, 256 connections, round trips/s", "%.0f"},
	"echo256.cpu":      {"64-byte echo, 256 connections, CPU µs each", "%.1f"},
	"echo1000.p99":     {"64-byte echo, 1000 connections, p99, µs", "%.0f"},
	"echo1000.rate":    {"64-byte echo, 1000 connections, round trips/s", "%.0f"},
	"echo1000.cpu":     {"64-byte echo, 1000 connections, CPU µs each", "%.1f"},
	"echo64.least":     {"64-byte echo, 64 connections, slowest connection's share of the mean", "%.2f"},
	"mixed.p99":        {"64 echoes beside 4 bulk streams, p99 of the echoes, µs", "%.0f"},
	"mixed.slower":     {"64 echoes beside 4 bulk streams, p99 of the echoes, times what it is without", "%.1f"},
	"mixed.rate":       {"64 echoes beside 4 bulk streams, round trips/s", "%.0f"},
	"mixed.bulk":       {"64 echoes beside 4 bulk streams, GiB/s of the streams", "%.2f"},
	"mixedidle.p99":    {"the same, the streams' clients and servers in SCHED_IDLE, p99 of the echoes, µs", "%.0f"},
	"mixedidle.slower": {"the same, the streams' clients and servers in SCHED_IDLE, p99 of the echoes, times what it is without", "%.1f"},
	"mixedidle.rate":   {"the same, the streams' clients and servers in SCHED_IDLE, round trips/s", "%.0f"},
	"mixedidle.bulk":   {"the same, the streams' clients and servers in SCHED_IDLE, GiB/s of the streams", "%.2f"},
	"connect.rate":     {"connections/s", "%.0f"},
	"connect.cpu":      {"CPU µs per connection", "%.1f"},
	"password.rate":    {"connections/s, with user and password", "%.0f"},
	"password.cpu":     {"CPU µs per connection, with user and password", "%.1f"},
	"name.rate":        {"connections/s, with a cached name", "%.0f"},
	"name.cpu":         {"CPU µs per connection, with a cached name", "%.1f"},
	"socks4a.rate":     {"connections/s, SOCKS4a with a cached name", "%.0f"},
	"socks4a.cpu":      {"CPU µs per connection, SOCKS4a with a cached name", "%.1f"},
	"http.rate":        {"connections/s, with HTTP CONNECT", "%.0f"},
	"http.cpu":         {"CPU µs per connection, with HTTP CONNECT", "%.1f"},
	"log.rate":         {"connections/s, with the access log in a file", "%.0f"},
	"log.cpu":          {"CPU µs per connection, with the access log in a file", "%.1f"},
	"deployed.rate":    {"connections/s, with a deployment's settings", "%.0f"},
	"deployed.cpu":     {"CPU µs per connection, with a deployment's settings", "%.1f"},
	"idle.user":        {"idle relay, user memory, KiB", "%.1f"},
	"idle.kernel":      {"idle relay, kernel memory, KiB", "%.1f"},
	"idle.memory":      {"idle relay, user and kernel memory, KiB", "%.1f"},
	"idle.fds":         {"idle relay, descriptors", "%.2f"},
	"udp.rate":         {"512-byte datagrams, 64 under way, round trips/s", "%.0f"},
	"udp.cpu":          {"512-byte datagrams, CPU µs each", "%.1f"},
	"udpgso.rate":      {"the same from a client with UDP GSO and GRO, round trips/s", "%.0f"},
	"udpgso.cpu":       {"the same from a client with UDP GSO and GRO, CPU µs each", "%.1f"},
	"tlsdown.rate":     {"TLS client, download, GiB/s", "%.2f"},
	"tlsdown.cpu":      {"TLS client, download, CPU s/GiB", "%.3f"},
	"tlsup.rate":       {"TLS client, upload, GiB/s", "%.2f"},
	"tlsup.cpu":        {"TLS client, upload, CPU s/GiB", "%.3f"},
	"tlsidle.user":     {"idle relay of a TLS client, user memory, KiB", "%.1f"},
	"tlsidle.kernel":   {"idle relay of a TLS client, kernel memory, KiB", "%.1f"},
	"tlsidle.memory":   {"idle relay of a TLS client, user and kernel memory, KiB", "%.1f"},
	"tlsidle.fds":      {"idle relay of a TLS client, descriptors", "%.2f"},
	"idle.resident":    {"process without relays, user memory, MiB", "%.1f"},
	"start.ready":      {"start until it accepts, ms", "%.0f"},
	"start.own":        {"process after its start, memory of its own, MiB", "%.1f"},
	"start.file":       {"process after its start, pages of its program in use, MiB", "%.1f"},
	"start.size":       {"program, MB", "%.1f"},
}

func measurements() []measurement {
	return []measurement{
		{"bulk", []string{"bulk.rate", "bulk.cpu"}, overTCP | without, bulk("bulk", 1)},
		{"bulk8", []string{"bulk8.rate", "bulk8.cpu"}, overTCP | without, bulk("bulk8", 8)},
		{"echo", []string{"echo.p50", "echo.p99", "echo.rate", "echo.cpu"}, overTCP | without, roundTrips("echo", 1)},
		{"echo8", []string{"echo8.p99", "echo8.rate", "echo8.cpu"}, overTCP | without, roundTrips("echo8", 8)},
		{"echo16", []string{"echo16.p99", "echo16.rate", "echo16.cpu"}, overTCP | without, roundTrips("echo16", 16)},
		{"echo64", []string{"echo64.p50", "echo64.p99", "echo64.rate", "echo64.cpu", "echo64.least"}, overTCP | without, roundTrips("echo64", 64)},
		{"echo256", []string{"echo256.p99", "echo256.rate", "echo256.cpu"}, overTCP | without, roundTrips("echo256", 256)},
		{"echo1000", []string{"echo1000.p99", "echo1000.rate", "echo1000.cpu"}, overTCP | without, roundTrips("echo1000", 1000)},
		{"mixed", []string{"mixed.p99", "mixed.slower", "mixed.rate", "mixed.bulk"}, overTCP | without, mixed("mixed", 4, 64)},
		{"mixedidle", []string{"mixedidle.p99", "mixedidle.slower", "mixedidle.rate", "mixedidle.bulk"}, overTCP | without, mixed("mixedidle", 4, 64, idleClass...)},
		{"connect", []string{"connect.rate", "connect.cpu"}, overTCP | without, connections("connect", plain)},
		{"password", []string{"password.rate", "password.cpu"}, withPassword, connections("password", openAs("", setupUser))},
		{"name", []string{"name.rate", "name.cpu"}, withName, connections("name", openAs(hostName(0), ""))},
		{"socks4a", []string{"socks4a.rate", "socks4a.cpu"}, withSOCKS4a, connections("socks4a", openSOCKS4a)},
		{"http", []string{"http.rate", "http.cpu"}, withHTTP, connections("http", openHTTP)},
		{"log", []string{"log.rate", "log.cpu"}, withLog, connections("log", plain)},
		{"deployed", []string{"deployed.rate", "deployed.cpu"}, deployed, connections("deployed", plain)},
		{"udp", []string{"udp.rate", "udp.cpu"}, overUDP, datagrams("udp", false)},
		{"udpgso", []string{"udpgso.rate", "udpgso.cpu"}, overUDP, datagrams("udpgso", true)},
		{"idle", []string{"idle.user", "idle.kernel", "idle.memory", "idle.fds", "idle.resident"}, overTCP, idle},
		{"start", []string{"start.ready", "start.own", "start.file", "start.size"}, overTCP, started},
		{"tlsdown", []string{"tlsdown.rate", "tlsdown.cpu"}, overTLS, bulkTLS("tlsdown", false)},
		{"tlsup", []string{"tlsup.rate", "tlsup.cpu"}, overTLS, bulkTLS("tlsup", true)},
		{"tlsidle", []string{"tlsidle.user", "tlsidle.kernel", "tlsidle.memory", "tlsidle.fds"}, overTLS, idleTLS},
	}
}

func chooseMeasurements(o options) []measurement {
	if o.measure == "" {
		return measurements()
	}
	return slices.DeleteFunc(measurements(), func(m measurement) bool {
		return !slices.ContainsFunc(strings.Split(o.measure, ","), m.isMeant)
	})
}

// isMeant reports whether a name of -measure means this one: its start, or all of it and =.
func (m measurement) isMeant(name string) bool {
	whole, exact := strings.CutSuffix(name, "=")
	return exact && m.name == whole || !exact && strings.HasPrefix(m.name, name)
}

// checkMeasure refuses names of -measure that mean nothing: the table would be written
// without what was asked for.
func (o options) checkMeasure() error {
	if o.measure == "" {
		return nil
	}
	for name := range strings.SplitSeq(o.measure, ",") {
		known := slices.ContainsFunc(measurements(), func(m measurement) bool { return m.isMeant(name) })
		if o.growth {
			known = slices.ContainsFunc(subjects, func(s subject) bool { return s.name == name })
		}
		if name == "" || !known {
			return fmt.Errorf("-measure: there is nothing that begins with %q to measure", name)
		}
	}
	return nil
}

// workers run functions side by side. The first error stops nobody; it is
// kept.
type workers struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	err error
}

func (w *workers) run(f func() error) {
	w.wg.Go(func() {
		if err := f(); err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.err == nil {
				w.err = err
			}
		}
	})
}

func (w *workers) wait() error {
	w.wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// span is the time and the proxy's processor time of a stretch of load.
type span struct {
	wall, cpu time.Duration
}

// pause lets the load run for d.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// observe measures d of a load that runs already. It calls mark at both ends.
func observe(ctx context.Context, u *usage, d time.Duration, mark func()) (span, error) {
	before, err := u.cpuTime()
	if err != nil {
		return span{}, err
	}
	mark()
	begin := time.Now()
	if err = pause(ctx, d); err != nil {
		return span{}, err
	}
	mark()
	wall := time.Since(begin)
	after, err := u.cpuTime()
	return span{wall: wall, cpu: after - before}, err
}
