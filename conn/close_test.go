package conn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/handshake"
	"cleversocks/conn/wire"
)

// connecting is a session right after its dial, before its client is told, with
// the far ends of both connections.
func connecting(t *testing.T, ahead string) (h *Handler, d *driver, client, server *net.TCPConn) {
	t.Helper()
	g, _ := newTestGroup(t, true)
	client, ours := pair(t, listen(t))
	toServer, server := pair(t, listen(t))
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	s := &session{
		socket: ours, conn: ours, ctx: t.Context(), policy: g.Policy(), local: netip.MustParseAddrPort("192.0.2.1:1"),
	}
	d = g.handler.newDriver(g.handler.newOpening(s))
	d.begin(handshake.Options{Spoken: spoken})
	d.machine.Feed([]byte("\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50" + ahead))
	d.machine.Identified(handshake.Terms{Free: true})
	d.machine.Written()
	d.machine.Admitted()
	if action := d.machine.Allowed(); action != handshake.Dial {
		t.Fatalf("the machine wants to %s", action)
	}
	d.speaks(wire.SOCKS5)
	d.request, d.server = d.machine.Request(), toServer
	return g.handler, d, client, server
}

// vanish resets a connection, and waits until its other end knows.
func vanish(t *testing.T, c *net.TCPConn, other net.Conn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := other.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if !clientGone(other, true) {
		t.Fatal("no reset")
	}
}

// A dial that was cancelled, for its client had left or the daemon ended, was
// recorded with a reply that nobody was sent. It still counts as decided.
func TestRecordTellsOfNoReplyThatWasNotSent(t *testing.T) {
	for name, why := range map[string]error{"the client left": errClientGone, "drained": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			h, d, client, _ := connecting(t, "")
			if !errors.Is(why, errClientGone) {
				d.conn.Close()
			}
			if d.server = nil; d.run(d.answer(why, nil)) {
				t.Error("there is a tunnel")
			}
			d.closeRefused()
			if got, err := io.ReadAll(client); err != nil || len(got) > 0 {
				t.Errorf("the client read % x, %v", got, err)
			}
			decided := h.metrics.Conn.Requests.Of("connect", wire.ReplyGeneralFailure.String()).Get()
			if d.record().Replied || decided != 1 {
				t.Errorf("replied %v, %d counted", d.replied, decided)
			}
		})
	}
}

// A server that reset right after it had accepted, before it had the bytes
// that the client sent ahead, looked to the client like one that had nothing
// to say: a clean end, and the record said "error".
func TestServerResetsBeforeTheFirstBytes(t *testing.T) {
	_, d, client, server := connecting(t, "ahead")
	if _, err := server.Write([]byte("busy")); err != nil {
		t.Fatal(err)
	}
	vanish(t, server, d.server.(*net.TCPConn))
	// The socket tells of its error once, and a write is to meet it.
	if d.run(d.dialed()) {
		t.Fatal("there is a tunnel")
	}
	done := make(chan struct{})
	go func() { defer close(done); d.closeRefused() }()
	got, err := io.ReadAll(client)
	<-done
	if !errors.Is(err, syscall.ECONNRESET) || len(got) != 14 || string(got[10:]) != "busy" {
		t.Errorf("the client read %q, %v; want a reply, what the server said, and a reset", got, err)
	}
	if d.cause != cause.ServerReset || !d.replied || d.counters.Out.Load() != 4 {
		t.Errorf("cause %q, replied %v, %d bytes out", d.cause, d.replied, d.counters.Out.Load())
	}
}

// A client that has gone before its reply was recorded as an error of ours,
// with a reply that it never had.
func TestClientResetsBeforeTheReply(t *testing.T) {
	_, d, client, server := connecting(t, "")
	vanish(t, client, d.conn)
	if d.run(d.dialed()) {
		t.Fatal("there is a tunnel")
	}
	d.closeRefused()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server saw %v, want a reset", err)
	}
	if d.cause != cause.ClientReset || d.replied {
		t.Errorf("cause %q, replied %v", d.cause, d.replied)
	}
}
