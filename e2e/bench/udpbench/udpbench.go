// Package udpbench measures a SOCKS5 proxy's UDP relay: round trips per
// second through it to an echo server, with many datagrams in flight, and
// the CPU time that the proxy takes for each.
//
//	result, err := udpbench.Measure(ctx, "127.0.0.1:1080", udpbench.Options{})
package udpbench

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"cleversocks/conn/wire"
)

// Options says what to measure. Zero values are the defaults.
type Options struct {
	Size     int           // bytes of payload; 512
	InFlight int           // datagrams under way per association; 64
	Clients  int           // associations; 1
	Duration time.Duration // 3 s
	PID      int           // the proxy's process, for its CPU time; 0: not read
	// Offload lets client and echo send and receive several datagrams at once
	// (UDP GSO and GRO), as QUIC stacks do. Otherwise each is single.
	Offload bool
}

// segments is how many datagrams of a size are joined at most.
func (o Options) segments(size int) int {
	if !o.Offload {
		return 1
	}
	return min(64, 65507/size)
}

// Result is what was measured.
type Result struct {
	RoundTrips int64
	Elapsed    time.Duration
	// CPU is what the proxy's process used; 0 without Options.PID.
	CPU time.Duration
	// Lost is round trips given up for a silence of 100 ms.
	Lost int64
}

// PerSecond is the rate of round trips.
func (r Result) PerSecond() float64 { return float64(r.RoundTrips) / r.Elapsed.Seconds() }

// CPUPerRoundTrip is the proxy's CPU time for one round trip.
func (r Result) CPUPerRoundTrip() time.Duration {
	return r.CPU / time.Duration(max(1, r.RoundTrips))
}

// Measure runs a measurement against the proxy at proxyAddr, IPv4 and without
// authentication, with an echo server of its own on loopback. Client and
// echo read and write in batches, so that the relay is what limits.
func Measure(ctx context.Context, proxyAddr string, o Options) (Result, error) {
	o.Size, o.InFlight = cmp.Or(o.Size, 512), cmp.Or(o.InFlight, 64)
	o.Clients, o.Duration = cmp.Or(o.Clients, 1), cmp.Or(o.Duration, 3*time.Second)
	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		result Result
		failed error
	)
	before, err := cpuTime(o.PID)
	if err != nil {
		return Result{}, err
	}
	began := time.Now()
	for range o.Clients {
		wg.Go(func() {
			trips, lost, cerr := client(ctx, proxyAddr, o)
			mu.Lock()
			defer mu.Unlock()
			result.RoundTrips += trips
			result.Lost += lost
			failed = errors.Join(failed, cerr)
		})
	}
	wg.Wait()
	result.Elapsed = time.Since(began)
	after, err := cpuTime(o.PID)
	result.CPU = after - before
	return result, errors.Join(failed, err)
}

// client runs one association until ctx ends.
func client(ctx context.Context, proxyAddr string, o Options) (trips, lost int64, err error) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, 0, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = server.Close() }()
	wg.Go(func() { echo(server, o) })

	control, relay, err := Associate(ctx, proxyAddr)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = control.Close() }()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = conn.Close() }()
	datagram, err := wire.AppendUDPHeader(nil, wire.FromAddrPort(server.LocalAddr().(*net.UDPAddr).AddrPort()))
	if err != nil {
		return 0, 0, err
	}
	datagram = append(datagram, make([]byte, o.Size)...)
	return exchange(ctx, conn, datagram, o)
}

// exchange keeps o.InFlight datagrams under way: each that returns is sent
// anew.
func exchange(ctx context.Context, conn *net.UDPConn, datagram []byte, o Options) (trips, lost int64, err error) {
	// A reply is as long as what was sent: both have IPv4 headers.
	segments := o.segments(len(datagram))
	m, err := newMmsg(conn, len(datagram), segments)
	if err != nil {
		return 0, 0, err
	}
	out, err := newMmsg(conn, len(datagram), segments)
	if err != nil {
		return 0, 0, err
	}
	for _, b := range out.bufs {
		for at := 0; at+len(datagram) <= len(b); at += len(datagram) {
			copy(b[at:], datagram)
		}
	}
	if err := out.writeMany(o.InFlight, len(datagram), segments); err != nil {
		return 0, 0, err
	}
	for ctx.Err() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := m.read()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			lost += int64(o.InFlight) // some were dropped somewhere: fill up again
			n = o.InFlight
		case err != nil:
			return trips, lost, err
		default:
			n = m.datagrams(n, len(datagram))
			trips += int64(n)
		}
		if err := out.writeMany(n, len(datagram), segments); err != nil {
			return trips, lost, err
		}
	}
	return trips, lost, nil
}

// echo sends back what it gets from whoever speaks first, until conn is
// closed.
func echo(conn *net.UDPConn, o Options) {
	m, err := newMmsg(conn, o.Size, o.segments(o.Size))
	if err != nil {
		return
	}
	n, from, err := conn.ReadFromUDP(m.bufs[0])
	if err != nil {
		return
	}
	if _, err := conn.WriteToUDP(m.bufs[0][:n], from); err != nil {
		return
	}
	if connect(conn, from) != nil {
		return
	}
	for {
		n, err := m.read()
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		_ = m.writeBack(n) // what the socket would not take is lost, as anything is on UDP
	}
}

// Associate asks a proxy for an association without authentication. It lasts
// until the caller closes control.
func Associate(ctx context.Context, proxyAddr string) (control net.Conn, relay netip.AddrPort, err error) {
	var d net.Dialer
	control, err = d.DialContext(ctx, "tcp4", proxyAddr)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	defer func() {
		if err != nil {
			_ = control.Close()
		}
	}()
	var buf [64]byte
	if _, err = control.Write([]byte{5, 1, 0}); err != nil {
		return nil, relay, err
	}
	if _, err = io.ReadFull(control, buf[:2]); err != nil {
		return nil, relay, err
	}
	if _, err = control.Write([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return nil, relay, err
	}
	if _, err = io.ReadFull(control, buf[:10]); err != nil {
		return nil, relay, err
	}
	if buf[1] != 0 || buf[3] != 1 {
		return nil, relay, fmt.Errorf("reply % x", buf[:10])
	}
	addr := netip.AddrFrom4([4]byte(buf[4:8]))
	return control, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(buf[8:10])), nil
}

// cpuTime is a process's user and system time.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// After the command in parentheses: utime and stime are fields 14 and 15,
	// in ticks of 10 ms.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
