//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// warmUp is how long a load runs before it is measured.
const warmUp = 150 * time.Millisecond

// bulk downloads over some streams at once.
func bulk(name string, streams int) func(context.Context, options, *instance) ([]value, error) {
	return func(ctx context.Context, o options, p *instance) ([]value, error) {
		s, err := serve(source)
		if err != nil {
			return nil, err
		}
		defer s.close()
		var total, first, last atomic.Int64
		conns, err := dialMany(ctx, p, s, streams)
		if err != nil {
			return nil, err
		}
		var w workers
		for _, c := range conns {
			w.run(func() error { return countBytes(c, &total) })
		}
		sp, err := load(ctx, p, o.duration, func() {
			first.Store(last.Load())
			last.Store(total.Load())
		})
		closeAll(conns)
		_ = w.wait()
		if err != nil {
			return nil, err
		}
		gib := float64(last.Load()-first.Load()) / (1 << 30)
		return []value{{name + ".rate", gib / sp.wall.Seconds()}, {name + ".cpu", sp.cpu.Seconds() / gib}}, nil
	}
}

// load warms up, then observes.
func load(ctx context.Context, p *instance, d time.Duration, mark func()) (span, error) {
	if err := pause(ctx, warmUp); err != nil {
		return span{}, err
	}
	return observe(ctx, p.usage, d, mark)
}

// roundTrips sends 64 bytes and waits for them, over some connections at once.
func roundTrips(name string, connections int) func(context.Context, options, *instance) ([]value, error) {
	return func(ctx context.Context, o options, p *instance) ([]value, error) {
		s, err := serve(echo)
		if err != nil {
			return nil, err
		}
		defer s.close()
		conns, err := dialMany(ctx, p, s, connections)
		if err != nil {
			return nil, err
		}
		var w workers
		var phase atomic.Int32 // 0 warm-up, 1 measured, 2 over
		took := make([][]time.Duration, len(conns))
		for i, c := range conns {
			w.run(func() error {
				var failed error
				took[i], failed = pingPong(c, &phase)
				return failed
			})
		}
		sp, err := load(ctx, p, o.duration, func() { phase.Add(1) })
		phase.Store(2)
		werr := w.wait()
		closeAll(conns)
		if err == nil {
			err = werr
		}
		if err != nil {
			return nil, err
		}
		all := slices.Concat(took...)
		slices.Sort(all)
		n := len(all)
		return []value{
			{name + ".p50", micros(all[n/2])},
			{name + ".p99", micros(all[n*99/100])},
			{name + ".rate", float64(n) / sp.wall.Seconds()},
			{name + ".cpu", micros(sp.cpu) / float64(n)},
			{name + ".least", leastShare(took)},
		}, nil
	}
}

// leastShare is how much of the mean the connection got that got least.
func leastShare(took [][]time.Duration) float64 {
	all, least := 0, len(took[0])
	for _, one := range took {
		all, least = all+len(one), min(least, len(one))
	}
	return float64(least*len(took)) / float64(all)
}

// pingPong is one connection of roundTrips. It returns how long each measured
// round trip took, at least one.
func pingPong(c *net.TCPConn, phase *atomic.Int32) ([]time.Duration, error) {
	took := make([]time.Duration, 0, 1<<16)
	b := make([]byte, 64)
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	for {
		begun, begin := phase.Load(), time.Now()
		if _, err := c.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return nil, err
		}
		if begun == 1 {
			took = append(took, time.Since(begin))
		}
		if phase.Load() == 2 && len(took) > 0 || phase.Load() == 2 && begun == 2 {
			return took, nil
		}
	}
}

// openers is how many clients connect at once.
const openers = 8

// opener opens a connection through a proxy.
type opener func(ctx context.Context, p *instance, target *net.TCPAddr) (*net.TCPConn, error)

// connections opens, uses once and closes connections.
func connections(name string, open opener) func(context.Context, options, *instance) ([]value, error) {
	return func(ctx context.Context, o options, p *instance) ([]value, error) {
		open := open
		if p.plain {
			open = plain
		}
		s, err := serve(echo)
		if err != nil {
			return nil, err
		}
		defer s.close()
		var w workers
		var done, first, last atomic.Int64
		var over atomic.Bool
		for range openers {
			w.run(func() error {
				for !over.Load() {
					if failed := oneConnection(ctx, p, s, open); failed != nil {
						over.Store(true)
						return failed
					}
					done.Add(1)
				}
				return nil
			})
		}
		sp, err := load(ctx, p, o.duration, func() {
			first.Store(last.Load())
			last.Store(done.Load())
		})
		over.Store(true)
		if werr := w.wait(); err == nil {
			err = werr
		}
		if err != nil {
			return nil, err
		}
		n := float64(last.Load() - first.Load())
		return []value{{name + ".rate", n / sp.wall.Seconds()}, {name + ".cpu", micros(sp.cpu) / n}}, nil
	}
}

func oneConnection(ctx context.Context, p *instance, s *server, open opener) error {
	c, err := open(ctx, p, s.addr())
	if err != nil {
		return err
	}
	return useOnce(c, true)
}

// useOnce sends a byte there and back, and may close the connection.
func useOnce(c net.Conn, end bool) error {
	b := []byte{1}
	_, err := c.Write(b)
	if err == nil {
		_, err = io.ReadFull(c, b)
	}
	if end || err != nil {
		_ = c.Close()
	}
	return err
}

// settle is how long a proxy gets to tidy up before its memory is measured.
const settle = 2500 * time.Millisecond

// idle opens relays, uses each once, and measures what they then cost.
func idle(ctx context.Context, o options, p *instance) ([]value, error) {
	s, err := serve(echo)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for range 1000 { // what the first connections cost once, the first collection of their garbage among it
		if err = oneConnection(ctx, p, s, plain); err != nil {
			return nil, err
		}
	}
	if err = pause(ctx, settle); err != nil {
		return nil, err
	}
	before, err := p.usage.footprint()
	if err != nil {
		return nil, err
	}
	conns, err := dialMany(ctx, p, s, o.relays)
	defer closeAll(conns)
	if err != nil {
		return nil, err
	}
	for _, c := range conns {
		if err = useOnce(c, false); err != nil {
			return nil, err
		}
	}
	if err = pause(ctx, settle); err != nil {
		return nil, err
	}
	after, err := p.usage.footprint()
	if err != nil {
		return nil, err
	}
	return append(perRelay("idle", before, after, len(conns)), value{"idle.resident", float64(before.user) / (1 << 20)}), nil
}

// started is what a proxy is like that nobody has used.
func started(ctx context.Context, _ options, p *instance) ([]value, error) {
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	f, err := p.usage.footprint()
	if err != nil {
		return nil, err
	}
	program, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	return []value{
		{"start.ready", float64(p.ready) / float64(time.Millisecond)},
		{"start.own", float64(f.anonymous) / (1 << 20)},
		{"start.file", float64(f.file) / (1 << 20)},
		{"start.size", float64(program.Size()) / 1e6},
	}, nil
}

// perRelay is what each of n relays adds to what a proxy holds.
func perRelay(name string, before, after footprint, n int) []value {
	each := func(a, b int64) float64 { return float64(b-a) / float64(n) }
	user := each(before.user, after.user) / 1024
	values := []value{{name + ".user", user}, {name + ".fds", each(before.descriptors, after.descriptors)}}
	if before.kernel >= 0 {
		kernel := each(before.kernel, after.kernel) / 1024
		values = append(values, value{name + ".kernel", kernel}, value{name + ".memory", user + kernel})
	}
	return values
}

// dialMany opens n connections through the proxy. On an error it returns none.
func dialMany(ctx context.Context, p *instance, s *server, n int) ([]*net.TCPConn, error) {
	conns := make([]*net.TCPConn, 0, n)
	for range n {
		c, err := plain(ctx, p, s.addr())
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []*net.TCPConn) {
	for _, c := range conns {
		_ = c.Close()
	}
}
