package conn

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
)

// A browser's ticket is for the connection: CONNECT, plain requests, and a
// plain one that is followed by others which bring none. Our own proof comes
// with the answer. Basic is still asked for where passwords are taken.
func TestNegotiate(t *testing.T) {
	g, kdc, _ := kerberosGroup(t, Listener{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Header.Get("Proxy-Authorization"))
	}))
	t.Cleanup(web.Close)
	address := strings.TrimPrefix(web.URL, "http://")
	for name, wrap := range map[string]func([]byte) []byte{"SPNEGO": gsstest.SPNEGO, "Kerberos alone": func(b []byte) []byte { return b }} {
		for _, line := range []string{"CONNECT " + address, "GET " + web.URL + "/"} {
			client, err := kdc.Login(gsstest.Login{Client: "alice", Service: "HTTP/proxy.test.example"})
			if err != nil {
				t.Fatal(err)
			}
			c := admit(t, g)
			r := bufio.NewReader(c)
			get := func(line, authorization string) *http.Response {
				t.Helper()
				method, _, _ := strings.Cut(line, " ")
				if _, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", line, address, authorization); err != nil {
					t.Fatal(err)
				}
				answer, err := http.ReadResponse(r, &http.Request{Method: method})
				if err != nil {
					t.Fatal(name, line, err)
				}
				return answer
			}
			answer := get(line, "")
			_, _ = io.Copy(io.Discard, answer.Body)
			if asked := answer.Header.Values("Proxy-Authenticate"); answer.StatusCode != 407 || len(asked) != 2 || asked[0] != "Negotiate" || !strings.HasPrefix(asked[1], "Basic ") {
				t.Fatalf("%s: %s asks for %q", line, answer.Status, asked)
			}
			answer = get(line, "Proxy-Authorization: Negotiate "+base64.StdEncoding.EncodeToString(wrap(client.Token))+"\r\n")
			proof, ok := strings.CutPrefix(answer.Header.Get("Proxy-Authenticate"), "Negotiate ")
			if answer.StatusCode != 200 || !ok {
				t.Fatalf("%s, %s: %s, %q", name, line, answer.Status, answer.Header)
			}
			token, err := base64.StdEncoding.DecodeString(proof)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Finish(token); err != nil {
				t.Errorf("%s, %s: %v", name, line, err)
			}
			if line[0] == 'G' {
				if body, _ := io.ReadAll(answer.Body); string(body) != "hello " {
					t.Errorf("%q", body)
				}
				answer = get(line, "")
				if body, _ := io.ReadAll(answer.Body); answer.StatusCode != 200 || string(body) != "hello " {
					t.Errorf("the next request: %s, %q", answer.Status, body)
				}
			}
		}
	}
}

// A user of Active Directory who is in very many groups has a ticket of up to
// 48,000 bytes, which Windows sends: by SOCKS5 it is let in, and by HTTP as long
// as it fits into a request's head in base64.
func TestTicketsOfUsersInManyGroups(t *testing.T) {
	g, kdc, _ := kerberosGroup(t, Listener{})
	if _, _, err := kdc.Dial(admit(t, g), gsstest.Login{Client: "alice", Service: gssService, Ballast: 60_000}, gssapi.LevelIntegrity); err != nil {
		t.Errorf("SOCKS5: %v", err)
	}
	for ballast, want := range map[int]int{46_000: http.StatusBadGateway, 50_000: http.StatusRequestHeaderFieldsTooLarge} {
		client, err := kdc.Login(gsstest.Login{Client: "alice", Service: "HTTP/proxy.test.example", Ballast: ballast})
		if err != nil {
			t.Fatal(err)
		}
		c := admit(t, g)
		go func() {
			_, _ = fmt.Fprintf(c, "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nProxy-Authorization: Negotiate %s\r\n\r\n",
				base64.StdEncoding.EncodeToString(gsstest.SPNEGO(client.Token)))
		}()
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || answer.StatusCode != want {
			t.Errorf("HTTP, %d bytes: %v, %v", len(client.Token), answer, err)
		}
	}
}

// What a browser without a ticket sends, and rubbish, is asked again.
func TestNegotiateRefuses(t *testing.T) {
	g, kdc, m := kerberosGroup(t, Listener{})
	rcmd, err := kdc.Login(gsstest.Login{Client: "alice", Service: gssService})
	if err != nil {
		t.Fatal(err)
	}
	for reason, token := range map[string][]byte{
		"mechanism": []byte("NTLMSSP\x00\x01\x00\x00\x00"),
		"service":   gsstest.SPNEGO(rcmd.Token),
	} {
		c := admit(t, g)
		if _, err := fmt.Fprintf(c, "CONNECT 127.0.0.1:9 HTTP/1.1\r\nProxy-Authorization: Negotiate %s\r\n\r\n", base64.StdEncoding.EncodeToString(token)); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || answer.StatusCode != 407 {
			t.Errorf("%s: %+v, %v", reason, answer, err)
		}
	}
	if n := m.Conn.Auth.Of("gssapi", "failed").Get(); n != 2 {
		t.Errorf("%d failures", n)
	}
}
