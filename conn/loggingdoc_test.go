package conn

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/handshake"
	"cleversocks/conn/wire"
	"cleversocks/udprelay"
)

// docs/logging.md has every field of a record and every cause.
func TestLoggingReference(t *testing.T) {
	text, err := os.ReadFile("../docs/logging.md")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("192.0.2.1:1")
	r := Record{
		ID: "1", Listener: "l", Client: at, User: "u", Auth: "password", Protocol: wire.SOCKS5, Command: wire.CommandConnect, Method: "GET",
		Target: wire.Addr{Name: "a.test", Port: 1}, Host: at, Local: at, Notes: "tls", Upstream: "up", Rule: "default", Duration: time.Second,
		Cause: "error", Replied: true, Err: os.ErrClosed,
	}
	refused := Record{refusal: &refusal{key: refusalKey{reason: "limit"}, count: 1}}
	datagrams := Record{Client: at, flow: &udprelay.Flow{At: at}}
	for _, a := range slices.Concat(r.attrs(), refused.attrs(), datagrams.attrs()) {
		if !strings.Contains(string(text), "`"+a.Key+"`") {
			t.Errorf("the field %s is not described", a.Key)
		}
	}
	for _, name := range cause.All() {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("the cause %s is not described", name)
		}
	}
	for _, p := range handshake.Protocols() {
		if !strings.Contains(string(text), p.String()) {
			t.Errorf("the protocol %s is not described", p)
		}
	}
}
