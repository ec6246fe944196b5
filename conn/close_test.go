package conn

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/wire"
)

// connected is a session right after its dial, before its client is told, with
// the far ends of both connections.
func connected(t *testing.T, ahead string) (h *Handler, hs *handshake, client, server *net.TCPConn) {
	t.Helper()
	g, _ := newTestGroup(t, true)
	client, ours := pair(t, listen(t))
	toServer, server := pair(t, listen(t))
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	s := &session{
		socket: ours, conn: ours, server: toServer, ctx: t.Context(), policy: g.Policy(), protocol: wire.SOCKS5,
		request: wire.Request{Protocol: wire.SOCKS5, Command: wire.CommandConnect},
		local:   netip.MustParseAddrPort("192.0.2.1:1"),
	}
	in := bufio.NewReader(strings.NewReader(ahead))
	if _, err := in.Peek(len(ahead)); err != nil {
		t.Fatal(err)
	}
	return g.handler, &handshake{session: s, in: in, codec: socks5Codec{&g.handler.login}}, client, server
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
			h, hs, client, _ := connected(t, "")
			if !errors.Is(why, errClientGone) {
				hs.conn.Close()
			}
			h.replies.requestFailed(hs, why)
			hs.closeRefused()
			if got, err := io.ReadAll(client); err != nil || len(got) > 0 {
				t.Errorf("the client read % x, %v", got, err)
			}
			decided := h.metrics.Conn.Requests.Of("connect", wire.ReplyGeneralFailure.String()).Get()
			if hs.record().Replied || decided != 1 {
				t.Errorf("replied %v, %d counted", hs.replied, decided)
			}
		})
	}
}

// A server that reset right after it had accepted, before it had the bytes
// that the client sent ahead, looked to the client like one that had nothing
// to say: a clean end, and the record said "error".
func TestServerResetsBeforeTheFirstBytes(t *testing.T) {
	h, hs, client, server := connected(t, "ahead")
	if _, err := server.Write([]byte("busy")); err != nil {
		t.Fatal(err)
	}
	vanish(t, server, hs.server.(*net.TCPConn))
	// The socket tells of its error once, and a write is to meet it.
	if h.replies.granted(hs) && hs.passAhead(nil) {
		t.Fatal("there is a tunnel")
	}
	done := make(chan struct{})
	go func() { defer close(done); hs.closeRefused() }()
	got, err := io.ReadAll(client)
	<-done
	if !errors.Is(err, syscall.ECONNRESET) || len(got) != 14 || string(got[10:]) != "busy" {
		t.Errorf("the client read %q, %v; want a reply, what the server said, and a reset", got, err)
	}
	if hs.cause != cause.ServerReset || !hs.replied || hs.counters.Out.Load() != 4 {
		t.Errorf("cause %q, replied %v, %d bytes out", hs.cause, hs.replied, hs.counters.Out.Load())
	}
}

// A client that has gone before its reply was recorded as an error of ours,
// with a reply that it never had.
func TestClientResetsBeforeTheReply(t *testing.T) {
	h, hs, client, server := connected(t, "")
	vanish(t, client, hs.conn)
	if h.replies.granted(hs) && hs.passAhead(nil) {
		t.Fatal("there is a tunnel")
	}
	hs.closeRefused()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server saw %v, want a reset", err)
	}
	if hs.cause != cause.ClientReset || hs.replied {
		t.Errorf("cause %q, replied %v", hs.cause, hs.replied)
	}
}
