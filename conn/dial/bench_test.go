package dial

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// cpuTime is the processor time of this process so far: on a busy machine the
// clock tells nothing.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkDial compares what a Dial costs with a plain net.Dial: both spend
// most of it in the kernel.
func BenchmarkDial(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // until the client resets it
			_ = c.Close()
		}
	}()
	defer func() { _ = l.Close(); <-done }()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
	d := New(Options{
		Lookup:         lookupTable(map[string][]netip.Addr{"x.test": {to.Addr()}}),
		ConnectTimeout: 10 * time.Second, NoDelay: true, KeepAlive: keepAlive, Metrics: metrics.New().Dial,
	})
	for name, dial := range map[string]func() (net.Conn, error){
		"net.Dial": func() (net.Conn, error) { return net.Dial("tcp", to.String()) },
		"literal":  func() (net.Conn, error) { return d.Dial(b.Context(), Request{Dest: wire.FromAddrPort(to)}) },
		"name": func() (net.Conn, error) {
			return d.Dial(b.Context(), Request{Dest: wire.Addr{Name: "x.test", Port: to.Port()}})
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				c, err := dial()
				if err != nil {
					b.Fatal(err)
				}
				_ = c.(*net.TCPConn).SetLinger(0) // leaves no port in TIME_WAIT
				_ = c.Close()
			}
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
		})
	}
}
