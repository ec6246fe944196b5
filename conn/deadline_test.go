package conn

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/dial"
	"cleversocks/resolver"
)

// One client that said nothing had a drain take all of its time, for it was
// awaited like a tunnel. A handshake without a request has nothing to lose;
// one that has it goes on.
func TestDrainDoesNotAwaitHandshakes(t *testing.T) {
	g, m := newTestGroup(t, true)
	to := sinkServer(t)
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	policy := *g.Policy()
	policy.Timeouts.Handshake = time.Hour
	policy.Dialer = dial.New(dial.Options{
		Lookup: func(ctx context.Context, _ string, _ resolver.Family) ([]netip.Addr, error) {
			asked <- struct{}{}
			select {
			case <-answer:
				return []netip.Addr{to.Addr()}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		ConnectTimeout: time.Hour, Family: dial.FamilyIPv4, Metrics: m.Dial,
	})
	g.SetPolicy(&policy)
	l := listen(t)
	open := func(sent string) io.ReadWriteCloser {
		client, server := pair(t, l)
		t.Cleanup(func() { client.Close() })
		if reason := g.Admit(server, "test"); reason != "" {
			t.Fatal(reason)
		}
		if _, err := client.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		return client
	}
	dialing := open("\x04\x01" + string([]byte{byte(to.Port() >> 8), byte(to.Port())}) + "\x00\x00\x00\x01\x00slow\x00")
	<-asked
	waiting := []io.Reader{open(""), open("\x05"), open("\x05\x01\x00\x05\x01"), open("\x04\x01"), open("CONNECT ")}
	g.startDraining()
	for i, c := range waiting {
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("handshake %d: %v, want an end", i, err)
		}
	}
	if n := m.Conn.Handshakes.Of("socks5", "timeout").Get(); n > 0 {
		t.Errorf("%d of them counted as the clients' time-outs", n)
	}
	close(answer)
	reply := make([]byte, 8)
	if _, err := io.ReadFull(dialing, reply); err != nil || reply[1] != 90 {
		t.Errorf("the dial in progress: % x, %v", reply, err)
	}
}

// A session that is admitted as the drain begins may set its deadline after
// the drain has looked at it.
func TestDrainCutsLateHandshakesShort(t *testing.T) {
	h, d, _, _ := connecting(t, "")
	draining := make(chan struct{})
	close(draining)
	d.started = time.Now()
	h.deadlines.cutShort(d.session) // not there yet
	h.deadlines.began(d.session, draining)
	_, err := d.conn.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	h.replies.handshakeFailed(d.session, err, false)
	if d.cause != cause.Drained {
		t.Errorf("cause %q", d.cause)
	}
}
