package admin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cleversocks/conn/task"
)

const patience = 20 * time.Second

func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// ask sends a request as it is written and returns the status.
func ask(t *testing.T, url, request string) int {
	t.Helper()
	c := dial(t, url)
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// A web page whose name points at the endpoint (DNS rebinding) could read
// everything. haproxy's plain check sends no Host, and a refusal there would
// take every replica out.
func TestHost(t *testing.T) {
	o := Options{
		Metrics: func(io.Writer) {}, Ready: func() error { return nil },
		Hosts: func() []string { return []string{"Proxy.example.org"} },
	}
	url, _ := startServer(t, o)
	for host, want := range map[string]int{
		"127.0.0.1:9180": 200, "[::1]:9180": 200, "::1": 200, "203.0.113.7": 200, "localhost": 200, "LOCALHOST:9180": 200,
		"cleversocks:9180": 200, "cleversocks.monitoring.svc": 200, "a.monitoring.svc.cluster.local.": 200, "box.home.arpa": 200,
		"proxy.example.org": 200, "evil.example": 421, "evil.example:9180": 421, "127.0.0.1.evil.example": 421,
		"localhost.evil.example": 421, "": 421, "notlocal": 200, "com.evil.notinternal": 421,
	} {
		if got := ask(t, url, "GET /metrics HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); got != want {
			t.Errorf("Host %q: %d, want %d", host, got, want)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		for _, head := range []string{" HTTP/1.0\r\n", " HTTP/1.1\r\nHost: www.example.com\r\n", " HTTP/1.1\r\nHost:\r\n"} {
			for _, method := range []string{"GET ", "HEAD ", "OPTIONS "} {
				want := 200
				if method == "OPTIONS " {
					want = 405
				}
				if got := ask(t, url, method+path+head+"\r\n"); got != want {
					t.Errorf("%s%s%q: %d, want %d", method, path, head, got, want)
				}
			}
		}
	}
}

// What a browser sends for a page of another site is refused; what a person
// follows or types is not.
func TestOrigin(t *testing.T) {
	url, _ := startServer(t, Options{
		Metrics: func(io.Writer) {}, Ready: func() error { return nil }, Hosts: func() []string { return []string{"ops.example.org"} },
	})
	for head, want := range map[string]int{
		// A reverse proxy in front calls us by our address.
		"Origin: https://Ops.example.org:8443":                         200,
		"Origin: https://ops.example.org\r\nSec-Fetch-Site: same-site": 403,
		"Origin: https://ops.example.org.evil.example":                 403,
		"Origin: https://evil.example/ops.example.org":                 403,
		"Origin: http://evil.example":                                  403,
		"Origin: null":                                                 403,
		"Origin: http://127.0.0.1:1":                                   200,
		"Sec-Fetch-Site: cross-site":                                   403,
		"Sec-Fetch-Site: same-site":                                    403,
		"Sec-Fetch-Site: none":                                         200,
		"Sec-Fetch-Site: same-origin":                                  200,
		"Sec-Fetch-Site: strange":                                      403,
		"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document": 200,
		"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe":   403,
	} {
		if got := ask(t, url, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:1\r\n"+head+"\r\n\r\n"); got != want {
			t.Errorf("%s: %d, want %d", head, got, want)
		}
	}
}

// TestIdleConnectionsMakeWay: 1,100 idle connections to the endpoint took the
// descriptors that the proxy accepts with. They are bounded, and whoever has
// something to ask gets in.
func TestIdleConnectionsMakeWay(t *testing.T) {
	blocked, release := make(chan struct{}), make(chan struct{})
	o := Options{Metrics: func(w io.Writer) {
		blocked <- struct{}{}
		<-release
		fmt.Fprintln(w, "some_metric 1")
	}, Ready: func() error { return nil }}
	url, _ := startServer(t, o)
	busy := dial(t, url)
	if _, err := io.WriteString(busy, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-blocked
	const idle = 300
	conns := make([]net.Conn, idle)
	for i := range conns {
		conns[i] = dial(t, url)
		if i%3 == 0 {
			_, _ = io.WriteString(conns[i], "GET /") // began a request and says no more
		}
	}
	if got := ask(t, url, "GET /healthz HTTP/1.0\r\n\r\n"); got != 200 {
		t.Errorf("a probe among idle connections: %d", got)
	}
	for _, c := range conns[:idle-MaxConnections] {
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatal("an idle connection was kept")
		}
	}
	close(release) // the one whose answer was under way kept its place
	resp, err := http.ReadResponse(bufio.NewReader(busy), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "some_metric") {
		t.Errorf("%q", body)
	}
}

// TestPanickingHandler: a panic ends one request; it is counted and the next
// one is answered.
func TestPanickingHandler(t *testing.T) {
	counted := make(chan string, 1)
	o := Options{
		Metrics: func(io.Writer) { panic("broken") }, Ready: func() error { return nil },
		Tasks: &task.Reporter{Count: func(where string) { counted <- where }},
	}
	url, _ := startServer(t, o)
	if _, err := http.Get(url + "/metrics"); err == nil {
		t.Error("an answer of a handler that panicked")
	}
	if where := <-counted; where != "admin" {
		t.Errorf("counted for %q", where)
	}
	if got := ask(t, url, "GET /healthz HTTP/1.0\r\n\r\n"); got != 200 {
		t.Errorf("afterwards: %d", got)
	}
}

// A load balancer that nobody has told a name sends none: by HTTP/1.0, as haproxy's
// plain check does, or by HTTP/1.1, where it should. What answers no probe refuses it.
func TestProbesWithoutAHost(t *testing.T) {
	url, stop := startServer(t, Options{Metrics: func(io.Writer) {}, Ready: func() error { return nil }})
	defer func() { _ = stop() }()
	for request, want := range map[string]string{
		"GET /readyz HTTP/1.0\r\n\r\n":                                 "HTTP/1.0 200",
		"HEAD /healthz HTTP/1.0\r\n\r\n":                               "HTTP/1.0 200",
		"GET /readyz HTTP/1.1\r\n\r\n":                                 "HTTP/1.0 200",
		"HEAD /healthz HTTP/1.1\r\nUser-Agent: a check\r\n\r\n":        "HTTP/1.0 200",
		"GET /readyz HTTP/1.1\r\nHost: evil.example\r\n\r\n":           "HTTP/1.1 200",
		"GET /metrics HTTP/1.1\r\n\r\n":                                "HTTP/1.1 400",
		"GET /metrics HTTP/1.0\r\n\r\n":                                "HTTP/1.0 421",
		"GET /readyz HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n":           "HTTP/1.1 400",
		"GET /readyz?x HTTP/1.1\r\n\r\n":                               "HTTP/1.1 400",
		"GET /readyz HTTP/1.1\r\nX-Long: " + strings.Repeat("x", 8000): "", // what is not whole yet waits for the rest
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if want != "" {
			answer := make([]byte, 12)
			if _, err := io.ReadFull(c, answer); err != nil || string(answer) != want {
				t.Errorf("%.60q: %q, %v, want %s", request, answer, err, want)
			}
		}
		c.Close()
	}
}
