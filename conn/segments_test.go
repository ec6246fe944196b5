package conn

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"cleversocks/authsvc"
)

// sinkServer reads to the end of each connection and then answers what it
// read, behind a mark.
func sinkServer(tb testing.TB) netip.AddrPort {
	tb.Helper()
	l := listen(tb)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			got, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte("got:"), got...))
			_ = c.Close()
		}
	}()
	tb.Cleanup(func() { l.Close(); <-done })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// sessions are whole valid sessions of every protocol to a server, payload
// included, and what the client reads, with the payload left out at %s.
func sessions(to netip.AddrPort) map[string][2]string {
	port := string([]byte{byte(to.Port() >> 8), byte(to.Port())})
	const ok5 = "\x05\x00\x00\x01"
	http := fmt.Sprintf("HTTP/1.1\r\nHost: %s\r\n", to)
	established := "HTTP/1.1 200 Connection established\r\n\r\ngot:%s"
	return map[string][2]string{
		"socks5":           {"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + port, "\x05\x00" + ok5 + "BND" + "got:%s"},
		"socks5, a name":   {"\x05\x03\x00\x01\x80\x05\x01\x00\x03\x09127.0.0.1" + port, "\x05\x00" + ok5 + "BND" + "got:%s"},
		"socks5, a user":   {"\x05\x01\x02\x01\x03ann\x06s3cret\x05\x01\x00\x01\x7f\x00\x00\x01" + port, "\x05\x02\x01\x00" + ok5 + "BND" + "got:%s"},
		"socks4":           {"\x04\x01" + port + "\x7f\x00\x00\x01me\x00", "\x00\x5aBNDgot:%s"},
		"socks4a":          {"\x04\x01" + port + "\x00\x00\x00\x07\x00127.0.0.1\x00", "\x00\x5aBNDgot:%s"},
		"http":             {"CONNECT " + to.String() + " " + http + "\r\n", established},
		"http/1.0, a user": {"CONNECT " + to.String() + " HTTP/1.0\r\nProxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n", established},
	}
}

// However the bytes of a valid session are cut into segments, its result is
// the same: the reply, and the payload behind the handshake.
func TestSegmentation(t *testing.T) {
	g, m := newTestGroup(t, true)
	policy := *g.Policy()
	users, err := authsvc.NewUsers(authsvc.UsersOptions{User: "ann", Password: "s3cret", Metrics: &m.Auth})
	if err != nil {
		t.Fatal(err)
	}
	policy.Auth = authsvc.NewAdmission(authsvc.AdmissionOptions{Authenticators: []authsvc.Authenticator{users}})
	g.SetPolicy(&policy)
	to, l := sinkServer(t), listen(t)
	for name, session := range sessions(to) {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				// Without any, the end would be that of a client who has left.
				payload := rapid.SliceOfN(rapid.Byte(), 1, 6000).Draw(rt, "payload")
				all := append([]byte(session[0]), payload...)
				cuts := rapid.SliceOfN(rapid.IntRange(1, 40), 0, 60).Draw(rt, "cuts")
				client, server := pair(t, l)
				defer client.Close()
				if reason := g.Admit(server, "test"); reason != "" {
					rt.Fatal(reason)
				}
				got := make(chan []byte, 1)
				go func() {
					b, _ := io.ReadAll(client)
					got <- b
				}()
				for _, n := range append(cuts, len(all)) {
					n = min(n, len(all))
					if _, err := client.Write(all[:n]); err != nil {
						rt.Fatal(err)
					}
					all = all[n:]
				}
				if err := client.CloseWrite(); err != nil {
					rt.Fatal(err)
				}
				if err := sameAnswer(session[1], payload, <-got); err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}

// sameAnswer compares an answer with a template in which BND stands for the
// six bytes of a bound address and %s for the payload.
func sameAnswer(template string, payload, got []byte) error {
	before, rest, bound := bytes.Cut([]byte(template), []byte("BND"))
	if bound {
		if len(got) < len(before)+6 {
			return fmt.Errorf("answer % x", got)
		}
		got = append(bytes.Clone(got[:len(before)]), got[len(before)+6:]...)
	} else {
		rest = nil
	}
	want := bytes.Replace(append(before, rest...), []byte("%s"), payload, 1)
	if !bytes.Equal(got, want) {
		return fmt.Errorf("answer %.80q of %d bytes, want %.80q of %d", got, len(got), want, len(want))
	}
	return nil
}
