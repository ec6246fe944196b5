package gssapi_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
)

// exchange is a first token as a real client has sent it, with the key of the
// realm that was made for it and is no more. Its authenticator was made at At.
type exchange struct {
	Client    string // the program
	EType     string // of the ticket's key
	Negotiate bool
	At        time.Time
	Token     []byte
	Keytab    []byte
}

// exchanges are those in testdata.
func exchanges(tb testing.TB) (list []exchange) {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "exchanges.json"))
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(b, &list); err != nil {
		tb.Fatal(err)
	}
	return list
}

// What real clients have sent is let in at its time, once: MIT's and Heimdal's
// libraries with each encryption type, curl and Chromium.
func TestRealExchanges(t *testing.T) {
	for _, e := range exchanges(t) {
		keytab, err := gssapi.ReadKeytab("", func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(e.Keytab)), nil })
		if err != nil {
			t.Fatal(e.Client, err)
		}
		a := gssapi.NewAcceptor(gssapi.Options{Keytab: keytab, Service: "rcmd", Now: func() time.Time { return e.At }})
		try := &authsvc.Attempt{Credentials: authsvc.Token{Bytes: e.Token, Negotiate: e.Negotiate}}
		grant, err := a.Authenticate(t.Context(), try)
		if err != nil || grant.Identity.User != "alice@TEST.EXAMPLE" || len(grant.Reply) == 0 {
			t.Errorf("%s, %s: %q, %v", e.Client, e.EType, grant.Identity.User, err)
		}
		if _, err := a.Authenticate(t.Context(), try); reasonOf(err) != authsvc.ReasonReplay {
			t.Errorf("%s, %s, once more: %v", e.Client, e.EType, err)
		}
	}
}
