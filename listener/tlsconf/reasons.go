package tlsconf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// reasons is the transport to an ACME server. It remembers why the server found
// a domain not to be ours: autocert drops that, and says in the end that there is
// "no viable challenge", from which nobody learns that port 443 is closed.
type reasons struct {
	mu     sync.Mutex
	domain string // that is asked for
	reason string // why not; "": nothing was said of it
}

// about begins a try for a domain.
func (r *reasons) about(domain string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.domain, r.reason = domain, ""
}

// maxAnswer bounds what is read of an answer to find a reason in it.
const maxAnswer = 64 << 10

// RoundTrip is that of the default transport.
func (r *reasons) RoundTrip(q *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(q)
	if err != nil || resp.Header.Get("Content-Type") != "application/json" && resp.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		return resp, err
	}
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	r.note(head)
	return resp, nil
}

// note looks for the error of a challenge in an authorization (RFC 8555 §7.1.4).
func (r *reasons) note(answer []byte) {
	var authorization struct {
		Status     string
		Identifier struct{ Value string }
		Challenges []struct {
			Error *struct{ Detail string }
		}
	}
	if json.Unmarshal(answer, &authorization) != nil || authorization.Status != "invalid" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if authorization.Identifier.Value != r.domain {
		return // autocert tidies up after an earlier try
	}
	for _, c := range authorization.Challenges {
		if c.Error != nil {
			r.reason = c.Error.Detail
		}
	}
}

// explain adds to a try's error what the server said.
func (r *reasons) explain(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason == "" {
		return err
	}
	return fmt.Errorf("%w (the server says: %s)", err, r.reason)
}
