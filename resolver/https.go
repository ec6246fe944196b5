package resolver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/miekg/dns"

	"cleversocks/metrics"
)

const mediaType = "application/dns-message" // RFC 8484 §6

// httpsTransport asks over HTTPS (RFC 8484): HTTP/2 where the server has it,
// all queries on one kept connection.
type httpsTransport struct {
	url     string
	client  *http.Transport
	dropped metrics.CounterVec
	manners manners
}

// httpsTries is how often a query is sent whose connection ends before its
// answer.
const httpsTries = 3

// dialError is a connection that was not made.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

func newHTTPS(url string, dial func(ctx context.Context) (net.Conn, error), conf *tls.Config, dropped metrics.CounterVec) *httpsTransport {
	return &httpsTransport{
		url:     url,
		dropped: dropped,
		client: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := dial(ctx)
				if err != nil {
					return nil, dialError{err}
				}
				return c, nil
			},
			TLSClientConfig:        conf,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			MaxConnsPerHost:        16,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
			// A connection that died silently is found by a ping.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 3 * time.Second},
		},
	}
}

func (h *httpsTransport) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	return h.manners.converse(ctx, q, hardening{edns: true}, h.ask)
}

// ask sends a query, again when its connection ended before the answer came: a
// server closes what was idle just as it is used, or after each answer, and
// net/http repeats no POST by itself. A question can be asked twice.
func (h *httpsTransport) ask(ctx context.Context, q query) (*dns.Msg, error) {
	q.msg.Id = 0 // RFC 8484 §4.1: the HTTP request tells answers apart
	raw, err := q.msg.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	for tries := 1; ; tries++ {
		body, err := h.post(ctx, raw)
		switch {
		case err == nil:
			return h.read(body, q)
		case tries == httpsTries || ctx.Err() != nil || !isCutShort(err):
			return nil, endOf(ctx, err)
		}
	}
}

// isCutShort reports a request whose connection ended under it.
func isCutShort(err error) bool {
	_, notDialed := errors.AsType[dialError](err)
	return !notDialed && !isTLS(err) && !isTimeout(err) && !errors.Is(err, errRefused) && !errors.Is(err, errMalformed)
}

// post sends a message once and returns the one that comes back.
func (h *httpsTransport) post(ctx context.Context, raw []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	req.Header["User-Agent"] = nil // say no more than the query does
	// Not http.Client: redirects would lead past the configured server.
	resp, err := h.client.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w HTTP status %d", errRefused, resp.StatusCode)
	}
	// A parameter that means nothing, as a charset, is no reason to do without
	// the answer; nor is a field that is missing. A page is no answer.
	if got := resp.Header.Get("Content-Type"); got != "" && !isMessage(got) {
		return nil, fmt.Errorf("%w: content type %q", errMalformed, got)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize+1))
	if err != nil {
		return nil, err
	}
	if len(body) > dns.MaxMsgSize {
		return nil, fmt.Errorf("%w: longer than a message", errMalformed)
	}
	return body, nil
}

// isMessage reports a content type that is a DNS message's, whatever its case
// and parameters (RFC 9110 §8.3.1).
func isMessage(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), mediaType)
}

// read takes an answer's message apart.
func (h *httpsTransport) read(body []byte, q query) (*dns.Msg, error) {
	reply, err := parseReply(body, q)
	if err != nil {
		h.dropped.Of(dropReason(err)).Inc()
		return nil, err
	}
	if reply.Truncated {
		return nil, fmt.Errorf("%w: truncated over HTTPS", errMalformed)
	}
	return reply, nil
}

// retire lets the queries under way finish; their connection closes when idle.
func (h *httpsTransport) retire() { h.client.CloseIdleConnections() }

// errNoBootstrap says that a server's own name has no address.
var errNoBootstrap = errors.New("no address for the server's name")
