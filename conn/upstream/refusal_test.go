package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"cleversocks/conn/wire"
)

// answering is an HTTP proxy that answers every request with a status, and
// counts them.
func answering(t *testing.T, status int, asked *atomic.Int64) string {
	t.Helper()
	return serve(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		asked.Add(1)
		fmt.Fprintf(c, "HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n", status)
		_, _ = io.Copy(io.Discard, c)
	})
}

// A member that answers 407 was asked for ever: its probe, a mere handshake,
// works. Whatever a member refuses by itself counts, and it is out after as
// many refusals as failures; what it says of a destination does not count.
func TestRefusalsByItself(t *testing.T) {
	for status, counts := range map[int]bool{407: true, 402: true, 429: true, 403: false, 502: false} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			var refused, granted atomic.Int64
			r := compile(t, options(Upstream{
				Members: []string{"http://" + answering(t, status, &refused), "http://" + answering(t, 200, &granted)},
				Health:  Health{Failures: 2},
			}))
			stop := run(t, r)
			defer stop()
			pool := r.Pools()[0]
			for range 10 {
				conn, info, err := r.Route(Query{Dest: addr(t, "web.test:443")}).Dial(context.Background(), addr(t, "web.test:443"))
				if err == nil {
					conn.Close()
					info.Release()
				} else if counts {
					t.Fatal(err)
				}
			}
			up := pool.members[0].isUp()
			switch n := refused.Load(); {
			case counts && (n != 2 || up):
				t.Errorf("asked %d times, up %v", n, up)
			case !counts && (n != 5 || !up):
				t.Errorf("asked %d times, up %v", n, up)
			}
		})
	}
}

// A second pick moved the round robin on: with one member of three out, the
// one behind it got both shares.
func TestFailoverKeepsTheRound(t *testing.T) {
	var refused, first, second atomic.Int64
	r := compile(t, options(Upstream{Members: []string{
		"http://" + answering(t, 407, &refused), "http://" + answering(t, 200, &first), "http://" + answering(t, 200, &second),
	}, Health: Health{Failures: 1000}}))
	for range 9 {
		conn, info, err := r.Route(Query{Dest: addr(t, "web.test:443")}).Dial(context.Background(), addr(t, "web.test:443"))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		info.Release()
	}
	if refused.Load() != 3 || first.Load() != 6 || second.Load() != 3 {
		t.Errorf("%d, %d and %d requests", refused.Load(), first.Load(), second.Load())
	}
}

// Who refused, and why, is said without the operator's addresses.
func TestSentence(t *testing.T) {
	for status, want := range map[int]string{
		403: `The upstream "u" refused: HTTP status 403 Forbidden.`,
		407: `The upstream "u" does not accept this proxy's credentials.`,
	} {
		var asked atomic.Int64
		u := Upstream{Name: "u", Via: []string{"http://" + answering(t, status, &asked)}}
		o := options(u)
		r := compile(t, o)
		_, _, err := r.Route(Query{Dest: addr(t, "web.test:443")}).Dial(context.Background(), addr(t, "web.test:443"))
		fail, ok := err.(*Error) //nolint:errorlint // of this package
		if !ok {
			t.Fatal(err)
		}
		if got := strings.Replace(fail.Sentence(), fmt.Sprintf("%q", fail.Upstream), `"u"`, 1); got != want {
			t.Errorf("%q", got)
		}
	}
}

// DialPlain asks a last hop of HTTP for no tunnel, and any other for one.
func TestDialPlain(t *testing.T) {
	var asked atomic.Int64
	r := compile(t, options(Upstream{Via: []string{"http://u:p@" + answering(t, 200, &asked)}}))
	conn, info, err := r.Route(Query{Dest: addr(t, "web.test:80")}).DialPlain(context.Background(), wire.Addr{Name: "web.test", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer info.Release()
	if info.Parent == nil || info.Parent.Authorization != "Basic dTpw" || asked.Load() != 0 {
		t.Errorf("%+v, asked %d times", info.Parent, asked.Load())
	}
	if err := info.Parent.Refused(407); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}
