package conn

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"cleversocks/conn/wire"
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
	for _, a := range r.attrs() {
		if !strings.Contains(string(text), "`"+a.Key+"`") {
			t.Errorf("the field %s is not described", a.Key)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../metrics/relay.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	causes := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Cause") || len(spec.Values) == 0 {
			return true
		}
		literal, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		cause, _ := strconv.Unquote(literal.Value)
		if causes++; !strings.Contains(string(text), "`"+cause+"`") {
			t.Errorf("the cause %s is not described", cause)
		}
		return true
	})
	if causes < 10 {
		t.Errorf("only %d causes found", causes)
	}
}
