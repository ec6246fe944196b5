package gssapi_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
	"cleversocks/conn/relay"
)

// BenchmarkRelay is one direction of a wrapped tunnel as the program moves it,
// through sockets. The peers are other processes, which write a file and read
// into nothing; what goes up is wrapped beforehand. MiB/s-core is what one core
// moves: bytes by this process's time, the kernel's part of it included, so that
// a busy machine does not make it less.
func BenchmarkRelay(b *testing.B) {
	for etype := int32(17); etype <= 20; etype++ {
		for _, level := range []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality} {
			for _, up := range []bool{true, false} {
				way := map[bool]string{true: "up", false: "down"}[up]
				b.Run(fmt.Sprintf("etype=%d/%s/%s", etype, level, way), func(b *testing.B) { benchRelay(b, etype, level, up) })
			}
		}
	}
}

// transfer is how much goes through a tunnel.
const transfer = 64 << 20

func benchRelay(b *testing.B, etype int32, level gssapi.Level, up bool) {
	b.Helper()
	pools := relay.NewPools(relay.PoolOptions{})
	defer pools.Close()
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan error)
	for _, r := range pools.Reactors() {
		go func() { served <- r.Serve(ctx) }()
	}
	file := filepath.Join(b.TempDir(), "data")
	b.SetBytes(transfer)
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		tunnel := newBenchTunnel(b, etype, level, up, file)
		runtime.GC() // of what made the data
		b.StartTimer()
		began := cpuTime(b)
		tunnel.run(b, pools)
		used += cpuTime(b) - began
	}
	b.ReportMetric(float64(b.N)*transfer/(1<<20)/used.Seconds(), "MiB/s-core")
	cancel()
	for range pools.Reactors() {
		<-served
	}
}

// benchTunnel is a tunnel whose log-in is over.
type benchTunnel struct {
	client       *gssapi.Conn
	server       net.Conn
	source, sink *exec.Cmd
}

func newBenchTunnel(b *testing.B, etype int32, level gssapi.Level, up bool, file string) *benchTunnel {
	b.Helper()
	kdc := gsstest.NewKDC(service)
	c := login(b, kdc, gsstest.Login{EType: etype})
	grant, err := acceptor(b, kdc, gssapi.Options{}).Authenticate(b.Context(), attempt(c.Token))
	if err != nil {
		b.Fatal(err)
	}
	peer, err := c.Finish(grant.Reply)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, transfer)
	if up {
		message := data[:32<<10]
		data = make([]byte, 0, transfer+transfer/256)
		for range transfer / len(message) {
			data = gssapi.AppendFrame(data, 3, peer.Wrap(nil, message, level == gssapi.LevelConfidentiality))
		}
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		b.Fatal(err)
	}
	client, near := sockets(b)
	far, server := sockets(b)
	from, to := server, client
	if up {
		from, to = client, server
	}
	t := &benchTunnel{
		client: gssapi.NewConn(near, near, grant.Security, level), server: far,
		source: exec.CommandContext(b.Context(), "cat", file), sink: exec.CommandContext(b.Context(), "sh", "-c", "exec cat >/dev/null"),
	}
	t.source.Stdout, t.sink.Stdin = handed(b, from), handed(b, to)
	return t
}

// handed is a socket for another process.
func handed(b *testing.B, c net.Conn) *os.File {
	b.Helper()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		b.Fatal(err)
	}
	c.Close()
	return f
}

func (t *benchTunnel) run(b *testing.B, pools *relay.Pools) {
	b.Helper()
	over := make(chan relay.Result)
	relay.Start(t.client, t.server, relay.Options{Pools: pools}, func(r relay.Result) { go func() { over <- r }() })
	for cmd, socket := range map[*exec.Cmd]any{t.sink: t.sink.Stdin, t.source: t.source.Stdout} {
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		_ = socket.(*os.File).Close() // the other process has it
	}
	if err := t.source.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := t.sink.Wait(); err != nil {
		b.Fatal(err)
	}
	if r := <-over; max(r.In, r.Out) != transfer {
		b.Fatalf("%d and %d bytes, %v", r.In, r.Out, r.Err)
	}
}

// cpuTime is what this process has used up to now.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
