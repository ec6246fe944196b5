package resolver

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// TestHTTPSServerEndsConnections: net/http repeats no POST whose connection
// ends under it, so that every query which met the server's idle close failed,
// over HTTP/1.1 and HTTP/2.
func TestHTTPSServerEndsConnections(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2 %t", http2), func(t *testing.T) {
			var requests atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1)%2 == 0 {
					panic(http.ErrAbortHandler) // the connection or stream ends without an answer
				}
				raw, err := io.ReadAll(r.Body)
				m := new(dns.Msg)
				if err != nil || m.Unpack(raw) != nil {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				reply, err := replyTo(t, m, m.Question[0].Name+" 60 IN A 192.0.2.1").Pack()
				if err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Type", mediaType)
				_, _ = w.Write(reply)
			}))
			s.EnableHTTP2 = http2
			s.StartTLS()
			defer s.Close()
			opts := testOptions(t, s.URL+"/dns-query")
			opts.RootCAs = x509.NewCertPool()
			opts.RootCAs.AddCert(s.Certificate())
			r := newResolver(t, opts)
			for i := range 6 {
				if _, err := r.Lookup(t.Context(), fmt.Sprintf("n%d.test", i), IPv4); err != nil {
					t.Error(err)
				}
			}
			r.Close()
		})
	}
}

// TestHTTPSContentTypes: a parameter behind the content type, other letters, or
// none at all, were a failure of every name. The message says enough by itself;
// a page of a captive portal is none.
func TestHTTPSContentTypes(t *testing.T) {
	for kind, good := range map[string]bool{
		"application/dns-message": true, "Application/DNS-Message; charset=utf-8": true, "": true, "text/html": false,
	} {
		t.Run(kind, func(t *testing.T) {
			s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw, err := io.ReadAll(r.Body)
				m := new(dns.Msg)
				if err != nil || m.Unpack(raw) != nil {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				reply, err := replyTo(t, m, m.Question[0].Name+" 60 IN A 192.0.2.1").Pack()
				if err != nil {
					t.Error(err)
				}
				w.Header()["Content-Type"] = []string{kind}
				if kind == "" {
					w.Header()["Content-Type"] = nil // not even a guess
				}
				_, _ = w.Write(reply)
			}))
			defer s.Close()
			opts := testOptions(t, s.URL+"/dns-query")
			opts.RootCAs = x509.NewCertPool()
			opts.RootCAs.AddCert(s.Certificate())
			r := newResolver(t, opts)
			if _, err := r.Lookup(t.Context(), "a.test", IPv4); (err == nil) != good {
				t.Error(err)
			}
			r.Close()
		})
	}
}
