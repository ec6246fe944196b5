package usage

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"cleversocks/metrics"
)

const (
	// pushTimeout bounds one attempt.
	pushTimeout = 30 * time.Second
	// firstPause and lastPause bound the time between attempts.
	firstPause = time.Second
	lastPause  = 5 * time.Minute
	// maxAnswer is how much of an answer is read, for the connection to be used again.
	maxAnswer = 64 << 10
)

// errRejected is an answer that another attempt would not change.
var errRejected = errors.New("the endpoint will not take it")

// pusher posts batches, the oldest first, one at a time.
type pusher struct {
	u        *Usage
	client   *http.Client
	settings *Settings // that client is made for
	pause    time.Duration
	failing  bool
}

func newPusher(u *Usage) *pusher { return &pusher{u: u} }

// run pushes until ctx ends.
func (p *pusher) run(ctx context.Context) error {
	for {
		var due <-chan time.Time
		timer := time.NewTimer(time.Hour)
		if wait := p.once(ctx); wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		for waiting := true; waiting; {
			select {
			case <-p.u.wake: // new batches end no pause after a failure; new settings do
				waiting = p.failing && p.settings == p.u.settings.Load()
			case <-due:
				waiting = false
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		timer.Stop()
	}
}

// once pushes all that waits, and returns how long to pause; 0: until there is
// something new.
func (p *pusher) once(ctx context.Context) time.Duration {
	settings := p.u.settings.Load()
	if settings.URL == "" {
		return 0
	}
	if !p.u.spool.mine() {
		return settings.Interval // another process may end
	}
	if settings != p.settings {
		p.pause = 0
		p.connect(settings)
	}
	for _, id := range p.u.spool.list() {
		if wait := p.push(ctx, id); wait > 0 || ctx.Err() != nil {
			return wait
		}
	}
	if p.u.o.Directory != "" {
		return settings.Interval // another process may have added to it
	}
	return 0
}

func (p *pusher) connect(s *Settings) {
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	p.settings = s
	p.client = &http.Client{
		Timeout: pushTimeout,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.Authority},
			MaxIdleConns:    1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
			ResponseHeaderTimeout: pushTimeout, MaxResponseHeaderBytes: maxAnswer,
		},
		// A POST that is sent elsewhere would take the token along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// push posts a batch; what it returns is how long to wait before the next attempt.
func (p *pusher) push(ctx context.Context, id string) time.Duration {
	b, err := p.u.spool.get(id)
	if errors.Is(err, fs.ErrNotExist) {
		return 0 // another process had it before
	}
	var after time.Duration
	if err == nil {
		after, err = p.post(ctx, b)
	}
	m := p.u.o.Metrics
	switch {
	case err == nil:
		m.Pushes.Of("ok").Inc()
		m.Events.Of(metrics.UsageSent).Add(b.events)
		p.works(ctx)
	case errors.Is(err, errRejected):
		m.Pushes.Of("rejected").Inc()
		m.Events.Of(metrics.UsageRejected).Add(b.events)
		p.u.o.Log.LogAttrs(ctx, slog.LevelError, "usage events were rejected", slog.String("batch", id), slog.Int("events", b.events), slog.Any("err", err))
	default:
		m.Pushes.Of("failed").Inc()
		return p.failed(ctx, err, after)
	}
	if err := p.u.spool.remove(id); err != nil {
		// It would be posted for ever.
		return p.failed(ctx, fmt.Errorf("a batch was taken and cannot be removed: %w", err), 0)
	}
	return 0
}

// post is one attempt.
func (p *pusher) post(ctx context.Context, b batch) (after time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.settings.URL, bytes.NewReader(b.body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", b.id)
	req.Header.Set("User-Agent", "cleversocks")
	if p.settings.Token != "" {
		req.Header.Set("Authorization", "Bearer "+p.settings.Token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // what it says matters to nobody
	switch {
	case resp.StatusCode/100 == 2:
		return 0, nil
	case resp.StatusCode == http.StatusBadRequest, resp.StatusCode == http.StatusRequestEntityTooLarge, resp.StatusCode == http.StatusUnprocessableEntity:
		return 0, fmt.Errorf("%w: %s", errRejected, resp.Status)
	}
	return retryAfter(resp.Header.Get("Retry-After"), time.Now()), fmt.Errorf("the endpoint answers %s", resp.Status)
}

// retryAfter is how long an endpoint wants to be left alone (RFC 9110 §10.2.3): it
// says seconds, or a date. 0: it does not say.
func retryAfter(value string, now time.Time) (after time.Duration) {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		after = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		after = at.Sub(now)
	}
	return max(0, min(after, lastPause))
}

// failed says how long to wait after an attempt that failed. The log hears of the first.
func (p *pusher) failed(ctx context.Context, err error, after time.Duration) time.Duration {
	p.pause = min(max(2*p.pause, firstPause), lastPause)
	if !p.failing && ctx.Err() == nil {
		p.failing = true
		p.u.o.Log.LogAttrs(ctx, slog.LevelWarn, "usage events wait: they cannot be pushed", slog.Any("err", err))
	}
	return max(after, p.pause/2+rand.N(p.pause/2)) //nolint:gosec // many daemons must not come back at once: no secret
}

func (p *pusher) works(ctx context.Context) {
	p.pause = 0
	if p.failing {
		p.failing = false
		p.u.o.Log.LogAttrs(ctx, slog.LevelInfo, "usage events are pushed again")
	}
}
