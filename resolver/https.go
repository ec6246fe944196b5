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
}

func newHTTPS(url string, dial func(ctx context.Context) (net.Conn, error), conf *tls.Config, dropped metrics.CounterVec) *httpsTransport {
	return &httpsTransport{
		url:     url,
		dropped: dropped,
		client: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
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
	reply, err := h.ask(ctx, q.query(true))
	if err == nil && refusesEDNS(reply) {
		return h.ask(ctx, q.query(false))
	}
	return reply, err
}

func (h *httpsTransport) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	query.Id = 0 // RFC 8484 §4.1: the HTTP request tells answers apart
	raw, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
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
		return nil, endOf(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w HTTP status %d", errRefused, resp.StatusCode)
	}
	if got := resp.Header.Get("Content-Type"); got != mediaType {
		return nil, fmt.Errorf("%w: content type %q", errMalformed, got)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, dns.MaxMsgSize+1))
	if err != nil {
		return nil, endOf(ctx, err)
	}
	if len(body) > dns.MaxMsgSize {
		return nil, fmt.Errorf("%w: longer than a message", errMalformed)
	}
	reply, err := parseReply(body, query, false)
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
