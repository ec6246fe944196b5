package gssapi_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
	"cleversocks/conn/relay"
)

// transfer is how much goes through a tunnel for each of BenchmarkRelay's turns.
const transfer = 16 << 20

// BenchmarkRelay is one direction of a wrapped tunnel as the product moves it,
// through loopback sockets, with one processor for all: the relay, the kernel,
// and the two peers, who do nothing but write and read. What is wrapped for the
// way up is wrapped before.
func BenchmarkRelay(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for etype := int32(17); etype <= 20; etype++ {
		for _, level := range []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality} {
			for _, up := range []bool{true, false} {
				way := map[bool]string{true: "up", false: "down"}[up]
				b.Run(fmt.Sprintf("etype=%d/%s/%s", etype, level, way), func(b *testing.B) { benchRelay(b, etype, level, up) })
			}
		}
	}
}

func benchRelay(b *testing.B, etype int32, level gssapi.Level, up bool) {
	kdc := gsstest.NewKDC(service)
	c := login(b, kdc, gsstest.Login{EType: etype})
	grant, err := acceptor(b, kdc, gssapi.Options{}).Authenticate(b.Context(), &authsvc.Attempt{Credentials: authsvc.Token{Bytes: c.Token}})
	if err != nil {
		b.Fatal(err)
	}
	peer, err := c.Finish(grant.Reply)
	if err != nil {
		b.Fatal(err)
	}
	client, near := sockets(b)
	far, server := sockets(b)
	pools := relay.NewPools(relay.PoolOptions{})
	defer pools.Close()
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan error)
	for _, r := range pools.Reactors() {
		go func() { served <- r.Serve(ctx) }()
	}
	over := make(chan struct{})
	relay.Start(gssapi.NewConn(near, near, grant.Security, level), far, relay.Options{Pools: pools}, func(relay.Result) { close(over) })
	b.SetBytes(transfer)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		message, size := make([]byte, 32<<10), int64(transfer)
		from, to := server, client
		wire := make([]byte, 0, transfer+transfer/100)
		if up {
			from, to = client, server
			for range transfer / len(message) {
				wire = gssapi.AppendFrame(wire, 3, peer.Wrap(nil, message, level == gssapi.LevelConfidentiality))
			}
		} else {
			wire, size = wire[:transfer], wrappedSize(level, grant.Security)
		}
		b.StartTimer()
		go func() { _, _ = from.Write(wire) }()
		if _, err := io.CopyN(plainly{to}, to, size); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	<-over
	for range pools.Reactors() {
		<-served
	}
}

// wrappedSize is what transfer is at least, wrapped: how many messages the relay
// makes of it depends on how it comes.
func wrappedSize(level gssapi.Level, security authsvc.Security) int64 {
	return transfer + transfer/relay.DefaultBufferSize*int64(4+security.Overhead(level == gssapi.LevelConfidentiality))
}

// plainly takes what is read, and has no way of its own to read it.
type plainly struct{ net.Conn }

func (plainly) Write(p []byte) (int, error) { return len(p), nil }
