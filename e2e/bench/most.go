//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mostReserve is what both sides need of descriptors beside two for each tunnel.
const mostReserve = 400

// measureMost opens as many tunnels as the descriptor limit allows, in one
// daemon and in this process, which has both ends of each: all of them carry
// bytes, before a reload, after it, and while the daemon drains.
func measureMost(ctx context.Context, o options, dir string) error {
	g := &growth{binary: o.ours, dir: dir}
	if g.binary == "" {
		g.binary = filepath.Join(dir, "cleversocks")
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	n := int(min(limit.Cur, 60_000)-mostReserve) / 2 // one address has no more ports
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1100 65500"), 0); err != nil {
		return err
	}
	i, _, err := g.start(ctx, fmt.Sprintf("[limits]\nmax_connections = %d\n[drain]\ntimeout = \"60s\"\n", n+50))
	if err != nil {
		return err
	}
	defer i.stop()
	s, err := serve(echo)
	if err != nil {
		return err
	}
	defer s.close()
	m := &most{i: i}
	if m.before, err = i.usage.footprint(); err != nil {
		return err
	}
	err = m.step(fmt.Sprintf("%d tunnels opened, of %d descriptors", n, limit.Cur), func() error {
		m.conns, err = dialMany(ctx, i, s, n)
		return err
	})
	defer func() { closeAll(m.conns) }()
	if err != nil {
		return err
	}
	return m.reloadAndDrain(ctx, s)
}

// most is a run of measureMost.
type most struct {
	i      *instance
	conns  []*net.TCPConn
	before footprint
}

// step does something, and says how long it took and what it cost.
func (m *most) step(name string, do func() error) error {
	cpu, err := m.i.usage.cpuTime()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, errors.Join(err, m.i.failure()))
	}
	after, err := m.i.usage.cpuTime()
	fmt.Printf("- %s: %.1f s, %.2f CPU s of the daemon\n", name, time.Since(begin).Seconds(), (after - cpu).Seconds())
	return err
}

// all sends a byte through each tunnel and back.
func (m *most) all() error {
	for n, c := range m.conns {
		if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
			return err
		}
		if err := useOnce(c, false); err != nil {
			return fmt.Errorf("tunnel %d: %w", n, err)
		}
	}
	return nil
}

func (m *most) signal(s syscall.Signal) error { return syscall.Kill(m.i.cmd.Process.Pid, s) }

func (m *most) reloadAndDrain(ctx context.Context, s *server) error {
	if err := m.step("a byte through each and back", m.all); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	f, err := m.i.usage.footprint()
	if err != nil {
		return err
	}
	for _, v := range perRelay("each", m.before, f, len(m.conns)) {
		fmt.Printf("  - %s: %.2f (memory in KiB)\n", v.name, v.number)
	}
	err = m.step("a reload, and a byte through each while it goes on", func() error {
		return errors.Join(m.signal(syscall.SIGHUP), m.all())
	})
	if err != nil {
		return err
	}
	err = m.step("told to stop, until it accepts nobody", func() error {
		return errors.Join(m.signal(syscall.SIGTERM), m.awaitRefusal(ctx, s))
	})
	if err != nil {
		return err
	}
	if err := m.step("a byte through each while it drains", m.all); err != nil {
		return err
	}
	return m.step("all closed by their clients, until the daemon has ended", func() error {
		closeAll(m.conns)
		m.conns = nil
		return m.i.cmd.Wait()
	})
}

// awaitRefusal waits until the daemon accepts nobody any more.
func (m *most) awaitRefusal(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for {
		c, err := dial(ctx, m.i.address, s.addr())
		if err != nil {
			return ctx.Err()
		}
		_ = c.Close()
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
