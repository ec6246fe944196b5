package conn

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// counted counts what goes to a socket.
type counted struct {
	net.Conn
	writes atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// newTLSPair is a client's and our end of a connection, after the handshake.
func newTLSPair(t *testing.T, version uint16) (client *tls.Conn, ours *tlsConn, socket *counted) {
	t.Helper()
	web := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{raw, accepted} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	t.Cleanup(func() { raw.Close(); accepted.Close() })
	socket = &counted{Conn: accepted}
	below := &tlsSocket{Conn: socket}
	ours = &tlsConn{Conn: tls.Server(below, &tls.Config{Certificates: web.TLS.Certificates, DynamicRecordSizingDisabled: true}), below: below}
	client = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MaxVersion: version, DynamicRecordSizingDisabled: true})
	failed := make(chan error, 1)
	go func() { failed <- client.Handshake() }()
	if err := errors.Join(ours.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	return client, ours, socket
}

// Bytes come out as they went in, in whatever parts they are written, with as many
// system calls as there are batches.
func TestTLSWritesInBatches(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, ours, socket := newTLSPair(t, version)
		data := make([]byte, 10*tlsBatch+tlsRecord+7)
		_, _ = rand.Read(data)
		read := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(client)
			read <- all
		}()
		socket.writes.Store(0)
		if n, err := ours.Write(data); n != len(data) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if n := socket.writes.Load(); n > 12 {
			t.Errorf("%d writes for 10 batches and a rest", n)
		}
		for _, size := range []int{0, 1, 100, tlsRecord, tlsRecord + 1, tlsBatch, tlsBatch + 1} {
			if n, err := ours.Write(data[:size]); n != size || err != nil {
				t.Fatalf("%d of %d, %v", n, size, err)
			}
			data = append(data, data[:size]...)
		}
		_ = ours.CloseWrite()
		if got := <-read; !bytes.Equal(got, data) {
			t.Errorf("%d bytes for %d, or other ones", len(got), len(data))
		}
	}
}

// Gather neither waits nor loses anything, and the end is what a Read tells: an
// error of it would end a tunnel before its last bytes are delivered.
func TestTLSGathers(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, ours, _ := newTLSPair(t, version)
		data := make([]byte, 3*tlsBatch+5)
		_, _ = rand.Read(data)
		if n := ours.Gather(make([]byte, 100)); n != 0 {
			t.Fatalf("%d bytes of nothing", n)
		}
		go func() {
			_, _ = client.Write(data)
			_ = client.CloseWrite()
		}()
		var got []byte
		chunks, buf := 0, make([]byte, tlsBatch)
		for {
			n, err := ours.Read(buf[:512])
			if n > 0 {
				n += ours.Gather(buf[n:])
				chunks++
			}
			got = append(got, buf[:n]...)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Errorf("the end is %v", err)
				}
				break
			}
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes for %d, or other ones", len(got), len(data))
		}
		if n := ours.Gather(buf); n != 0 {
			t.Errorf("%d bytes behind the end", n)
		}
		t.Logf("%d chunks for %d bytes", chunks, len(data))
	}
}

// A client that takes nothing holds a write up, as long as its deadline lets it.
func TestTLSBatchMeetsDeadline(t *testing.T) {
	_, ours, _ := newTLSPair(t, tls.VersionTLS13)
	_ = ours.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := ours.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// An idle tunnel over TLS kept the memory of its largest record, twice as much as all
// else: a conn that waits gives it back, and that of its handshake, and goes on with
// what comes. If this fails with a new version of Go, the fields have other names: see
// tlsrest.go.
func TestIdleTLSKeepsNothing(t *testing.T) {
	if !canRest() {
		t.Fatal("a tls.Conn has other fields than it had")
	}
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, ours, socket := newTLSPair(t, version)
		ours.below.Conn = socket.Conn // one that can be waited for
		read := func(want []byte) {
			t.Helper()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(ours, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("of %d bytes: %v", len(want), err)
			}
		}
		m := memoryOf(ours.Conn)
		for range 3 {
			go func() { _, _ = client.Write(sent) }()
			read(sent)
			if !m.isLarge() || m.isInUse() {
				t.Fatalf("%d bytes are kept of a record: this tests nothing", m.rawInput.Cap())
			}
			given := 0
			rests := func() { // it waits from here on, until the deadline
				given = m.rawInput.Cap()
				m.giveBack()
				_ = ours.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			}
			if !awaitBytes(ours.below.Conn, rests) || given == 0 || m.rawInput.Cap() > 0 || m.input.Size() > 0 {
				t.Errorf("%d bytes are kept while it waits", m.rawInput.Cap())
			}
			if n, err := ours.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes, %v", n, err)
			}
			_ = ours.SetReadDeadline(time.Now().Add(20 * time.Second))
			go func() { _, _ = client.Write([]byte("little")) }()
			read([]byte("little"))
		}
		// The end may be read with the last bytes, and is not to be waited for then.
		go func() { _, _ = client.Write(sent); _ = client.CloseWrite() }()
		read(sent[:len(sent)-100])
		last := make([]byte, 50)
		if n, _ := ours.Read(last); n == 0 || ours.Gather(make([]byte, tlsBatch)) == 0 {
			t.Error("nothing is gathered")
		}
		if n, err := ours.Read(last); n > 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d bytes, %v", n, err)
		}
	}
}
