package gssapi_test

import (
	"bytes"
	"io"
	"net"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
)

// judge has a token judged, which must end with a reason for the log, or be let
// in.
func judge(t *testing.T, a *gssapi.Acceptor, token []byte, negotiate bool) {
	t.Helper()
	_, err := a.Authenticate(t.Context(), &authsvc.Attempt{Credentials: authsvc.Token{Bytes: token, Negotiate: negotiate}})
	if err != nil && reasonOf(err) == "" {
		t.Fatal(err)
	}
}

// FuzzAuthenticate gives the acceptor what strangers send.
func FuzzAuthenticate(f *testing.F) {
	kdc := gsstest.NewKDC(service, "HTTP/proxy.test.example")
	a := acceptor(f, kdc, gssapi.Options{})
	for _, etype := range []int32{17, 20} {
		f.Add(login(f, kdc, gsstest.Login{EType: etype}).Token, false)
	}
	http := login(f, kdc, gsstest.Login{Service: "HTTP/proxy.test.example"}).Token
	f.Add(http, true)
	f.Add(gsstest.SPNEGO(http), true)
	f.Add(gsstest.SPNEGO([]byte("NTLMSSP\x00\x01\x00\x00\x00")), true)
	f.Add([]byte("NTLMSSP\x00\x01\x00\x00\x00"), true)
	for _, e := range exchanges(f) {
		f.Add(e.Token, e.Negotiate)
	}
	f.Fuzz(func(t *testing.T, token []byte, negotiate bool) { judge(t, a, token, negotiate) })
}

// FuzzTicket is a KDC with a defect: what it has sealed with the service's key
// is anything.
func FuzzTicket(f *testing.F) {
	kdc := gsstest.NewKDC(service)
	a := acceptor(f, kdc, gssapi.Options{})
	login(f, kdc, gsstest.Login{Ticket: func(plain []byte) []byte {
		f.Add(plain)
		return plain
	}})
	f.Fuzz(func(t *testing.T, plain []byte) {
		judge(t, a, login(t, kdc, gsstest.Login{Ticket: func([]byte) []byte { return plain }}).Token, false)
	})
}

// FuzzAuthenticator is a user with a ticket, who may seal what he likes with its
// key.
func FuzzAuthenticator(f *testing.F) {
	kdc := gsstest.NewKDC(service)
	a := acceptor(f, kdc, gssapi.Options{})
	for _, mutual := range []bool{true, false} {
		login(f, kdc, gsstest.Login{NoMutual: !mutual, Authenticator: func(plain []byte) []byte {
			f.Add(plain)
			return plain
		}})
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		judge(t, a, login(t, kdc, gsstest.Login{Authenticator: func([]byte) []byte { return plain }}).Token, false)
	})
}

// FuzzKeytab reads any file for a keytab.
func FuzzKeytab(f *testing.F) {
	f.Add(gsstest.NewKDC(service).Keytab())
	for _, e := range exchanges(f) {
		f.Add(e.Keytab)
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = gssapi.ReadKeytab("", func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	})
}

// stream is a client's bytes, up to their end.
type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// FuzzStream reads any bytes in all the ways that a log-in and a tunnel read
// them: never more than is there, and nothing that was not wrapped.
func FuzzStream(f *testing.F) {
	client, server := contexts(f)
	f.Add(gssapi.AppendFrame(nil, gssapi.TokenMessage, []byte("token")))
	for _, seal := range []bool{true, false} {
		f.Add(gssapi.AppendFrame(nil, 3, client.Wrap(nil, []byte("message"), seal)))
		f.Add(gssapi.AppendFrame(nil, gssapi.LevelMessage, client.Wrap(nil, []byte{2}, seal)))
	}
	f.Add([]byte{1, 2, 0, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range []byte{gssapi.TokenMessage, gssapi.LevelMessage} {
			if token, n, err := gssapi.SplitToken(data, kind); err == nil && (n != 4+len(token) || n > len(data)) {
				t.Fatalf("%d bytes of %d for a token of %d", n, len(data), len(token))
			}
		}
		for _, nec := range []bool{true, false} {
			protection := gssapi.Protection{Levels: []gssapi.Level{gssapi.LevelIntegrity}, NEC: nec}
			if level, _, err := protection.Agree(server, bytes.Clone(data)); err == nil && level != gssapi.LevelIntegrity {
				t.Fatal("granted: ", level)
			}
		}
		for _, level := range []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality} {
			in := stream{Reader: bytes.NewReader(bytes.Clone(data))}
			if got, _ := io.ReadAll(gssapi.NewConn(nil, in, server, level)); len(got) > len(data) {
				t.Fatalf("%d bytes out of %d", len(got), len(data))
			}
			c := gssapi.NewConn(nil, in, server, level)
			_, _ = c.UnwrapDatagram(bytes.Clone(data))
		}
	})
}

// contexts are the two ends of a log-in.
func contexts(tb testing.TB) (client *gssapi.Context, server authsvc.Security) {
	tb.Helper()
	kdc := gsstest.NewKDC(service)
	c := login(tb, kdc, gsstest.Login{})
	grant, err := acceptor(tb, kdc, gssapi.Options{}).Authenticate(tb.Context(), attempt(c.Token))
	if err != nil {
		tb.Fatal(err)
	}
	if client, err = c.Finish(grant.Reply); err != nil {
		tb.Fatal(err)
	}
	return client, grant.Security
}
