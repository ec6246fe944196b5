package conn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
	"cleversocks/bind"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

const gssService = "rcmd/proxy.test.example"

// kerberosGroup serves clients with a ticket, and others with a password.
func kerberosGroup(t *testing.T, listener Listener) (*Group, *gsstest.KDC, *metrics.Registry) {
	t.Helper()
	kdc := gsstest.NewKDC(gssService, "HTTP/proxy.test.example")
	keytab, err := gssapi.ReadKeytab("", func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(kdc.Keytab())), nil })
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := gssapi.NewMapping(gssapi.MappingOptions{StripRealms: []string{gsstest.Realm}})
	if err != nil {
		t.Fatal(err)
	}
	g, m := newTestGroup(t, true)
	users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "ann", Password: "s3cret", Metrics: &m.Auth})
	if err != nil {
		t.Fatal(err)
	}
	policy := *g.Policy()
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{
		Required: true, Outcomes: m.Conn.Auth,
		Authenticators: []authsvc.Authenticator{users, gssapi.NewAcceptor(gssapi.Options{Keytab: keytab, Service: "rcmd", Mapping: mapping})},
	})
	policy.UDP = udprelay.New(udprelay.RelayOptions{Metrics: m, Logger: g.log})
	policy.Bind = bind.New(bind.ServerOptions{Metrics: m})
	policy.UDP.Configure(udprelay.RelayOptions{IdleTimeout: patience, MaxAssociations: 10})
	policy.Bind.Configure(bind.ServerOptions{AcceptTimeout: patience, AnyPeer: true})
	listener.Protocols = Spoken()
	if listener.Protection.Levels == nil {
		listener.Protection.Levels = []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality}
	}
	policy.Listeners = map[string]Listener{"test": listener}
	g.SetPolicy(&policy)
	return g, kdc, m
}

// admit is a client's connection to the group.
func admit(t *testing.T, g *Group) net.Conn {
	t.Helper()
	client, server := pair(t, listen(t))
	if reason := g.Admit(server, "test"); reason != "" {
		t.Fatal(reason)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

var bothLevels = []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality}

func ask(t *testing.T, c net.Conn, command byte, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	ip := to.Addr().As4()
	if _, err := c.Write([]byte{5, command, 0, 1, ip[0], ip[1], ip[2], ip[3], byte(to.Port() >> 8), byte(to.Port())}); err != nil {
		t.Fatal(err)
	}
	return replied(t, c)
}

func replied(t *testing.T, c net.Conn) netip.AddrPort {
	t.Helper()
	var reply [10]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil || reply[1] != 0 {
		t.Fatalf("reply % x, %v", reply, err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[4:8])), uint16(reply[8])<<8|uint16(reply[9]))
}

// Every byte behind the negotiation is protected: the request, the reply, what
// is sent ahead of it, both directions, and an end of stream passes one way.
func TestProtectedConnect(t *testing.T) {
	g, kdc, _ := kerberosGroup(t, Listener{})
	target := listen(t)
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				data, _ := io.ReadAll(c) // until the client's end of stream
				_, _ = c.Write(bytes.ToUpper(data))
			}()
		}
	}()
	for _, level := range bothLevels {
		raw := admit(t, g)
		c, _, err := kdc.Dial(raw, gsstest.Login{Client: "alice", Service: gssService}, level)
		if err != nil {
			t.Fatal(level, err)
		}
		at := target.Addr().(*net.TCPAddr).AddrPort()
		request := []byte{5, 1, 0, 1, 127, 0, 0, 1, byte(at.Port() >> 8), byte(at.Port())}
		if _, err := c.Write(append(request, "ahead "...)); err != nil {
			t.Fatal(err)
		}
		replied(t, c)
		sent := "ahead " + strings.Repeat("and behind ", 20_000)
		if _, err := c.Write([]byte(sent[6:])); err != nil {
			t.Fatal(err)
		}
		if err := c.(*gssapi.Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != strings.ToUpper(sent) {
			t.Errorf("%s: %d bytes came back, %v", level, len(got), err)
		}
	}
}

func TestProtectedBind(t *testing.T) {
	g, kdc, _ := kerberosGroup(t, Listener{})
	for _, level := range bothLevels {
		c, _, err := kdc.Dial(admit(t, g), gsstest.Login{Client: "alice", Service: gssService}, level)
		if err != nil {
			t.Fatal(err)
		}
		bound := ask(t, c, 2, netip.MustParseAddrPort("127.0.0.1:9"))
		peer, err := net.Dial("tcp", bound.String())
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		replied(t, c)
		if _, err := peer.Write([]byte("from the peer")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 13)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "from the peer" {
			t.Errorf("%s: %q, %v", level, got, err)
		}
	}
}

// Datagrams are protected each by itself, and may be lost and overtake each
// other; one that is not wrapped, or wrapped for another connection, goes
// nowhere.
func TestProtectedDatagrams(t *testing.T) {
	g, kdc, _ := kerberosGroup(t, Listener{})
	header := echoDatagrams(t)
	for _, level := range bothLevels {
		c, context, err := kdc.Dial(admit(t, g), gsstest.Login{Client: "alice", Service: gssService}, level)
		if err != nil {
			t.Fatal(err)
		}
		relay := ask(t, c, 3, netip.MustParseAddrPort("0.0.0.0:0"))
		udp, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(relay))
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		near := gssapi.NewConn(c, c, context, level).Datagrams()
		first, second := near.WrapDatagram(nil, append(header, "first"...)), near.WrapDatagram(nil, append(header, "second"...))
		forged := bytes.Clone(first)
		forged[len(forged)-1] ^= 1
		for _, datagram := range [][]byte{append(header, "bare"...), forged, second, first, first} {
			if _, err := udp.Write(datagram); err != nil {
				t.Fatal(err)
			}
		}
		big := bytes.Repeat([]byte("big "), 12_000)
		if _, err := udp.Write(near.WrapDatagram(nil, append(header, big...))); err != nil {
			t.Fatal(err)
		}
		var got []string
		buf := make([]byte, 65536)
		_ = udp.SetReadDeadline(time.Now().Add(patience))
		for range 3 {
			n, err := udp.Read(buf)
			if err != nil {
				t.Fatal(level, got, err)
			}
			plain, err := near.UnwrapDatagram(buf[:n])
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(plain[10:]))
		}
		if got[0] != "second" || got[1] != "first" || got[2] != string(big) {
			t.Errorf("%s: %d replies, %.20q", level, len(got), got)
		}
	}
}

// A wrapped tunnel that is idle holds no buffer, whatever the size of the last
// message was, and be it just what a relay's first read or its buffer takes.
func TestIdleProtectedTunnelsHoldNoBuffer(t *testing.T) {
	g, kdc, _ := kerberosGroup(t, Listener{})
	target := listen(t)
	go func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	at := target.Addr().(*net.TCPAddr).AddrPort()
	var open []net.Conn
	buf := make([]byte, 64<<10)
	for _, last := range []int{1, 511, 512, 513, 16 << 10, 16<<10 + 512, 32 << 10} {
		const tunnels = 20
		before := heapInUse()
		for i := range tunnels {
			c, _, err := kdc.Dial(admit(t, g), gsstest.Login{Client: "alice", Service: gssService}, bothLevels[i%2])
			if err != nil {
				t.Fatal(err)
			}
			ask(t, c, 1, at)
			for _, n := range []int{60_000, last} {
				if _, err := c.Write(buf[:n]); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf[:n]); err != nil {
					t.Fatal(err)
				}
			}
			open = append(open, c)
		}
		// Both ends of each take some 14 KiB, ciphers and goroutines and all, and
		// a buffer of the relay's 16 more. Some may be on their way to the next read.
		took := 0
		for range 100 {
			if took = (heapInUse() - before) / tunnels; took < 22<<10 {
				break
			}
			runtime.Gosched()
		}
		if took >= 22<<10 {
			t.Errorf("the last message of %d bytes: %d bytes a tunnel, both ends", last, took)
		}
	}
	runtime.KeepAlive(open)
}

// heapInUse is what is reachable: sync.Pool's things are not, after two rounds.
func heapInUse() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// The listener says in which order, and whether at all, clients may log in.
func TestLoginPreference(t *testing.T) {
	token, word := []authsvc.Kind{authsvc.KindToken}, []authsvc.Kind{authsvc.KindPassword}
	for name, tt := range map[string]struct {
		auth    []authsvc.Kind
		offered []byte
		want    byte
	}{
		"both, curl's order":          {nil, []byte{0, 1, 2}, 1},
		"password first":              {append(word, token...), []byte{0, 1, 2}, 2},
		"password first, not offered": {append(word, token...), []byte{0, 1}, 1},
		"tickets alone":               {token, []byte{0, 2}, 0xff},
		"passwords alone":             {word, []byte{0, 1}, 0xff},
	} {
		g, _, _ := kerberosGroup(t, Listener{Auth: tt.auth})
		c := admit(t, g)
		if _, err := c.Write(append([]byte{5, byte(len(tt.offered))}, tt.offered...)); err != nil {
			t.Fatal(err)
		}
		var method [2]byte
		if _, err := io.ReadFull(c, method[:]); err != nil || method[1] != tt.want {
			t.Errorf("%s: method %d, %v", name, method[1], err)
		}
	}
}

// Where a client comes from says which way it is asked for, of those that it
// offers; from elsewhere it is the listener's order.
func TestLoginPreferenceByRange(t *testing.T) {
	for name, tt := range map[string]struct {
		from string
		want byte
	}{"its range": {"127.0.0.0/8", 2}, "another range": {"192.0.2.0/24", 1}} {
		g, _, _ := kerberosGroup(t, Listener{AuthFrom: func(client netip.Addr) []authsvc.Kind {
			if netip.MustParsePrefix(tt.from).Contains(client) {
				return []authsvc.Kind{authsvc.KindPassword, authsvc.KindToken}
			}
			return nil
		}})
		c := admit(t, g)
		if _, err := c.Write([]byte{5, 2, 1, 2}); err != nil {
			t.Fatal(err)
		}
		var method [2]byte
		if _, err := io.ReadFull(c, method[:]); err != nil || method[1] != tt.want {
			t.Errorf("%s: method %d, %v", name, method[1], err)
		}
	}
}

// A level that is not allowed, a replay, and rubbish are each answered, and
// nobody waits.
func TestTokenRefusals(t *testing.T) {
	g, kdc, m := kerberosGroup(t, Listener{Protection: gssapi.Protection{Levels: []gssapi.Level{gssapi.LevelIntegrity}}})
	login := gsstest.Login{Client: "alice", Service: gssService}
	if _, _, err := kdc.Dial(admit(t, g), login, gssapi.LevelConfidentiality); !errors.Is(err, gsstest.ErrRefused) {
		t.Errorf("a level that is not allowed: %v", err)
	}
	client, err := kdc.Login(login)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		message []byte
		refused bool
	}{
		"rubbish":      {gssapi.AppendFrame(nil, 1, []byte("rubbish")), true},
		"a cut ticket": {gssapi.AppendFrame(nil, 1, client.Token[:len(client.Token)-1]), true},
		"empty":        {[]byte{1, 1, 0, 0}, false},
		"another type": {[]byte{1, 9, 0, 1, 0}, false},
	} {
		c := admit(t, g)
		if _, err := c.Write(append([]byte{5, 1, 1}, tt.message...)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		want := []byte{5, 1}
		if tt.refused {
			want = append(want, 1, 0xff, 0, 0)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: % x, %v", name, got, err)
		}
	}
	if n := m.Conn.Auth.Of("gssapi", "failed").Get(); n != 3 {
		t.Errorf("%d failures counted", n)
	}
}

// ill is an authenticator with a defect.
type ill struct{}

func (ill) Method() authsvc.Method    { return "ill" }
func (ill) Accepts(authsvc.Kind) bool { return true }
func (ill) Holds(authsvc.Identity, netip.Addr) (authsvc.Identity, error) {
	panic("a defect")
}

func (ill) Authenticate(context.Context, *authsvc.Attempt) (authsvc.Grant, error) {
	panic("a defect")
}

// A panic in an authenticator ends the connection that met it, is counted, and
// gives back the try that was taken of its source: the others go on.
func TestPanicInAuthentication(t *testing.T) {
	g, _, m := kerberosGroup(t, Listener{})
	good := g.Policy()
	policy := *good
	throttle := authsvc.NewThrottle(authsvc.ThrottleOptions{Max: 1, Window: time.Hour, Ban: time.Hour}, authsvc.StateOptions{Metrics: &m.Auth})
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Required: true, Authenticators: []authsvc.Authenticator{ill{}}, Throttle: throttle, Outcomes: m.Conn.Auth})
	g.SetPolicy(&policy)
	for name, hello := range map[string]string{
		"password": "\x05\x01\x02\x01\x03ann\x06s3cret", "ticket": "\x05\x01\x01\x01\x01\x00\x01x", "SOCKS4": "\x04\x01\x00\x50\x7f\x00\x00\x01ann\x00",
		"HTTP": "CONNECT 127.0.0.1:9 HTTP/1.1\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n",
	} {
		before := m.Conn.Panics.Of("conn").Get()
		c := admit(t, g)
		if _, err := c.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
		eventuallyIn(t, func() bool { return m.Conn.Panics.Of("conn").Get() > before }) // the conn may be closed before
		if n := m.Conn.Panics.Of("conn").Get() - before; n != 1 {
			t.Errorf("%s: %d panics counted", name, n)
		}
	}
	if throttle.Banned(netip.MustParseAddr("127.0.0.1")) {
		t.Error("a defect of ours banned the source")
	}
	g.SetPolicy(good)
	c := admit(t, g)
	if _, err := c.Write([]byte("\x05\x01\x02\x01\x03ann\x06s3cret")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(c, got); err != nil || got[3] != 0 {
		t.Errorf("the next one: % x, %v", got, err)
	}
}
