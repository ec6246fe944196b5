package http2front_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cleversocks/conn/http2front"
)

const patience = 20 * time.Second

// peer is a client that says what it likes.
type peer struct {
	t    *testing.T
	conn net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	ended chan error // what Serve returned
}

// newPeer serves one connection; open has each stream.
func newPeer(t *testing.T, open func(http2front.Stream) bool) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, conn: client, Framer: http2.NewFramer(client, client), ended: make(chan error, 1)}
	p.enc = hpack.NewEncoder(&p.block)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		p.ended <- http2front.Serve(ctx, server, bufio.NewReader(server), http2front.Options{Open: open, Idle: time.Minute, Drain: context.Background()})
		_ = server.Close()
	}()
	t.Cleanup(func() { cancel(); _ = client.Close() })
	_ = client.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(client, http2front.Preface)
	_ = p.WriteSettings()
	return p
}

func (p *peer) connect(id uint32) error {
	p.block.Reset()
	_ = p.enc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
	_ = p.enc.WriteField(hpack.HeaderField{Name: ":authority", Value: "a.example:443"})
	return p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block.Bytes(), EndHeaders: true})
}

// await reads frames until one is wanted, or the connection ends.
func (p *peer) await(wanted func(http2.Frame) bool) bool {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return false
		}
		if wanted(f) {
			return true
		}
	}
}

// isGoAway is a goodbye with a code.
func isGoAway(code http2.ErrCode) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		return ok && g.ErrCode == code
	}
}

// Each flood ends its connection, whatever the client reads meanwhile, and no
// more sessions than are allowed are ever at work.
func TestFloods(t *testing.T) {
	for name, send := range map[string]func(p *peer, i uint32) error{
		"rapid reset": func(p *peer, i uint32) error {
			if err := p.connect(2*i + 1); err != nil {
				return err
			}
			return p.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		},
		"pings":    func(p *peer, _ uint32) error { return p.WritePing(false, [8]byte{}) },
		"settings": func(p *peer, _ uint32) error { return p.WriteSettings() },
		"empty data": func(p *peer, i uint32) error {
			if i == 0 {
				_ = p.connect(1)
			}
			return p.WriteData(1, false, nil)
		},
		"priorities": func(p *peer, _ uint32) error { return p.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"streams":    func(p *peer, i uint32) error { return p.connect(2*i + 1) },
		"continuations": func(p *peer, i uint32) error {
			if i == 0 {
				return p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0}})
			}
			return p.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 1000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			open, most := 0, 0
			p := newPeer(t, func(s http2front.Stream) bool {
				mu.Lock()
				defer mu.Unlock()
				open++
				most = max(most, open)
				s.OnReset(func() {}) // a session takes a while to notice
				go func() {
					_, _ = io.Copy(io.Discard, s)
					mu.Lock()
					open--
					mu.Unlock()
					_ = s.Close()
				}()
				return false
			})
			go func() { // reads, so that no answer of ours holds the flood up
				_, _ = io.Copy(io.Discard, p.conn)
			}()
			for i := range uint32(100_000) {
				if send(p, i) != nil {
					break
				}
			}
			select {
			case err := <-p.ended:
				if err == nil {
					t.Error("ended well")
				}
			case <-time.After(patience):
				t.Fatal("it goes on")
			}
			mu.Lock()
			defer mu.Unlock()
			if most > 256 {
				t.Errorf("%d sessions at a time", most)
			}
		})
	}
}

// A client that overruns its window is stopped at that stream, and what it
// makes us hold is bounded.
func TestWindowIsHeld(t *testing.T) {
	p := newPeer(t, func(http2front.Stream) bool { return false }) // nobody reads
	_ = p.connect(1)
	for range 9 { // of 16 KiB: one too many
		if err := p.WriteData(1, false, make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if !p.await(func(f http2.Frame) bool {
		r, ok := f.(*http2.RSTStreamFrame)
		return ok && r.ErrCode == http2.ErrCodeFlowControl
	}) {
		t.Error("no reset")
	}
}

// Malformed requests end their stream, malformed frames their connection.
func TestMalformed(t *testing.T) {
	for name, fields := range map[string][]hpack.HeaderField{
		"no authority":      {{Name: ":method", Value: "CONNECT"}},
		"a path":            {{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:1"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/"}},
		"a break":           {{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:1\r\nX: y"}},
		"no path":           {{Name: ":method", Value: "GET"}, {Name: ":authority", Value: "a"}, {Name: ":scheme", Value: "http"}},
		"upper-case":        {{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:1"}, {Name: "Upper", Value: "x"}},
		"a break in a line": {{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:1"}, {Name: "x", Value: "a\nb"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, func(http2front.Stream) bool { t.Error("served"); return true })
			for _, f := range fields {
				_ = p.enc.WriteField(f)
			}
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block.Bytes(), EndHeaders: true})
			if !p.await(func(f http2.Frame) bool {
				r, ok := f.(*http2.RSTStreamFrame)
				return ok && r.ErrCode == http2.ErrCodeProtocol
			}) {
				t.Error("no reset")
			}
		})
	}
	p := newPeer(t, func(http2front.Stream) bool { return true })
	_ = p.WriteData(7, false, []byte("to nobody"))
	if !p.await(isGoAway(http2.ErrCodeProtocol)) {
		t.Error("no goodbye")
	}
}

// Deadlines on a stream wake what waits, as on a socket.
func TestDeadlines(t *testing.T) {
	streams := make(chan http2front.Stream, 1)
	p := newPeer(t, func(s http2front.Stream) bool { streams <- s; return false })
	_ = p.connect(1)
	s := <-streams
	head := make([]byte, 4096)
	if n, err := s.Read(head); err != nil || !bytes.HasPrefix(head[:n], []byte("CONNECT a.example:443 HTTP/1.1\r\n")) {
		t.Fatalf("%q, %v", head[:n], err)
	}
	for _, in := range []time.Duration{-time.Second, 20 * time.Millisecond} {
		_ = s.SetReadDeadline(time.Now().Add(in))
		var timeout net.Error
		if _, err := s.Read(head); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v: %v", in, err)
		}
	}
	_ = s.SetReadDeadline(time.Time{})
	_ = p.WriteData(1, true, []byte("data"))
	if out, err := io.ReadAll(s); err != nil || string(out) != "data" {
		t.Errorf("%q, %v", out, err)
	}
	_ = s.Close()
	if !p.await(func(f http2.Frame) bool { _, ok := f.(*http2.RSTStreamFrame); return ok }) {
		t.Error("a closed stream was not reset")
	}
}

// A client that opens a stream as soon as another has ended, as many at a time as our
// settings let it, is never refused one: sessions end after their streams, which it
// cannot see, and h2load was refused three streams of a hundred.
func TestAllStreamsOfTheSettings(t *testing.T) {
	const most, streams = http2front.MaxStreams, 2000
	p := newPeer(t, func(s http2front.Stream) bool {
		go func() {
			_, _ = io.Copy(io.Discard, s)
			_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\n\r\n")
			_ = s.CloseWrite()
			time.AfterFunc(2*time.Millisecond, func() { _ = s.Close() }) // it still has things to do
		}()
		return false
	})
	open := func(n uint32) {
		if err := errors.Join(p.connect(2*n+1), p.WriteData(2*n+1, true, nil)); err != nil {
			t.Fatal(err)
		}
	}
	opened, ended := uint32(0), 0
	for ; opened < most; opened++ {
		open(opened)
	}
	for ended < streams {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatalf("after %d streams: %v", ended, err)
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			t.Fatalf("after %d streams: %v", ended, f.ErrCode)
		case *http2.DataFrame:
			if !f.StreamEnded() {
				continue
			}
			ended++
			if opened < streams {
				open(opened)
				opened++
			}
		}
	}
}

// What a client sends behind its preface is anybody's: nothing panics, the connection
// ends with it, and so does each stream.
func FuzzFrames(f *testing.F) {
	add := func(frames ...func(*peer)) {
		p := &peer{}
		var out bytes.Buffer
		p.Framer, p.enc = http2.NewFramer(&out, nil), hpack.NewEncoder(&p.block)
		for _, frame := range frames {
			frame(p)
		}
		f.Add(out.Bytes())
	}
	settings := func(p *peer) { _ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }
	connect := func(p *peer) { _ = p.connect(1) }
	get := func(p *peer) {
		p.block.Reset()
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}, {"cookie", "x"}} {
			_ = p.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.block.Bytes(), EndHeaders: true})
	}
	add(settings, connect, func(p *peer) { _ = p.WriteDataPadded(1, true, []byte("data"), make([]byte, 9)) })
	add(settings, get, func(p *peer) { _ = p.WriteData(3, true, []byte("body")) })
	add(connect, func(p *peer) { _ = p.WriteRSTStream(1, http2.ErrCodeCancel) }, get, func(p *peer) { _ = p.WritePing(false, [8]byte{1}) })
	add(connect, func(p *peer) { _ = p.WriteWindowUpdate(1, 1<<31-1) }, func(p *peer) { _ = p.WriteWindowUpdate(0, 1<<31-1) })
	add(get, connect, func(p *peer) { _ = p.WriteGoAway(0, http2.ErrCodeNo, nil) }, func(p *peer) { _ = p.WritePriority(5, http2.PriorityParam{}) })
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, client := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, client) }() // ends with ours
		var sessions sync.WaitGroup
		said := io.MultiReader(strings.NewReader(http2front.Preface), bytes.NewReader(data)) // and then it leaves
		_ = http2front.Serve(context.Background(), ours, bufio.NewReader(said), http2front.Options{
			Idle: time.Minute, Drain: context.Background(),
			Open: func(s http2front.Stream) bool {
				sessions.Go(func() {
					_, _ = io.Copy(io.Discard, s)
					_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
					_ = s.CloseWrite()
					_ = s.Close()
				})
				return false
			},
		})
		_ = ours.Close()
		sessions.Wait()
	})
}

// A stream that nobody takes, at a limit or while the daemon drains, is refused,
// which says that the client may ask again. It was reset as one that could not
// connect, and refused only then: requests at the moment of an upgrade failed.
func TestRefusedStream(t *testing.T) {
	p := newPeer(t, func(http2front.Stream) bool { return true })
	if err := p.connect(1); err != nil {
		t.Fatal(err)
	}
	var codes []http2.ErrCode
	_ = p.WritePing(false, [8]byte{7})
	p.await(func(f http2.Frame) bool {
		if r, ok := f.(*http2.RSTStreamFrame); ok {
			codes = append(codes, r.ErrCode)
		}
		_, pong := f.(*http2.PingFrame)
		return pong
	})
	if len(codes) != 1 || codes[0] != http2.ErrCodeRefusedStream {
		t.Errorf("reset with %v", codes)
	}
}
