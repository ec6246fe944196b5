//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// How fast what an operator says at one replica is in force at the others, as
// clients see it.

// newsRounds is how often each kind of news is told.
const newsRounds = 50

// newsToken is the bearer token of the replicas' management endpoints.
const newsToken = "the bench's own token, for a minute"

// news is a kind of news, and how long it took to be seen.
type news struct {
	name string
	took []time.Duration
}

// measureNews tells each kind of news at the first replica, and looks at the last.
func (f *fleet) measureNews(ctx context.Context, target *net.TCPAddr) ([]news, error) {
	kinds := []struct {
		name string
		once func(ctx context.Context, n int, target *net.TCPAddr) (time.Duration, error)
	}{
		{"ban", f.newsOfBan}, {"end of a ban", f.newsOfUnban}, {"kill", f.newsOfKill}, {"revoke", f.newsOfRevoke},
	}
	var all []news
	for _, kind := range kinds {
		one := news{name: kind.name}
		for n := range newsRounds {
			took, err := kind.once(ctx, n, target)
			if err != nil {
				return all, fmt.Errorf("%s: %w", kind.name, err)
			}
			one.took = append(one.took, took)
		}
		slices.Sort(one.took)
		all = append(all, one)
	}
	return all, nil
}

// ask asks a replica's management endpoint.
func (f *fleet) ask(ctx context.Context, method string, replica int, path, body string) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+f.admins[replica]+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+newsToken)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1000))
	if err == nil && answer.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s %s", method, path, answer.Status, text)
	}
	return err
}

// until waits for something to be so.
func until(ctx context.Context, so func() (bool, error)) error {
	for end := time.Now().Add(dialTimeout); ; {
		if is, err := so(); is || err != nil {
			return err
		}
		if time.Now().After(end) {
			return errors.New("it is never seen")
		}
		if err := pause(ctx, 200*time.Microsecond); err != nil {
			return err
		}
	}
}

// from dials a replica from an address.
func (f *fleet) from(ctx context.Context, source string, replica int) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: dialTimeout}
	c, err := dialer.DialContext(ctx, "tcp4", f.addresses[replica])
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(dialTimeout))
	}
	return c, err
}

// welcome reports whether a source is answered with a method of a greeting.
func (f *fleet) welcome(ctx context.Context, source string, replica int, methods ...byte) (method byte, welcome bool) {
	c, err := f.from(ctx, source, replica)
	if err != nil {
		return 0, false
	}
	defer func() { _ = c.Close() }()
	answer := make([]byte, 2)
	_, _ = c.Write(append([]byte{5, byte(len(methods))}, methods...))
	_, err = io.ReadFull(c, answer)
	return answer[1], err == nil
}

func newsSource(n int) string { return netip.AddrFrom4([4]byte{127, 9, 0, byte(n + 1)}).String() }

func (f *fleet) last() int { return len(f.addresses) - 1 }

func (f *fleet) newsOfBan(ctx context.Context, n int, _ *net.TCPAddr) (time.Duration, error) {
	return f.tellAndSee(ctx, http.MethodPost, "/api/v1/bans", fmt.Sprintf(`{"source": %q, "duration": "5m"}`, newsSource(n)), func() (bool, error) {
		_, welcome := f.welcome(ctx, newsSource(n), f.last(), 2)
		return !welcome, nil
	})
}

func (f *fleet) newsOfUnban(ctx context.Context, n int, _ *net.TCPAddr) (time.Duration, error) {
	return f.tellAndSee(ctx, http.MethodDelete, "/api/v1/bans/"+newsSource(n), "", func() (bool, error) {
		_, welcome := f.welcome(ctx, newsSource(n), f.last(), 2)
		return welcome, nil
	})
}

func (f *fleet) newsOfKill(ctx context.Context, n int, target *net.TCPAddr) (time.Duration, error) {
	user := fmt.Sprint("u", n)
	c, _, err := setUp(ctx, f.addresses[f.last()], user, target)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	return f.tellAndSee(ctx, http.MethodDelete, "/api/v1/sessions?user="+user, "", func() (bool, error) {
		_, err := c.Read(make([]byte, 1))
		return err != nil, nil
	})
}

// newsOfRevoke takes back what a log-in has brought an address: to come without
// a password.
func (f *fleet) newsOfRevoke(ctx context.Context, n int, target *net.TCPAddr) (time.Duration, error) {
	source := newsSource(n + 100)
	c, err := f.from(ctx, source, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	if err := greet(c, farUser, target); err != nil {
		return 0, err
	}
	if err := until(ctx, func() (bool, error) {
		method, _ := f.welcome(ctx, source, f.last(), 0)
		return method == 0, nil
	}); err != nil {
		return 0, err
	}
	return f.tellAndSee(ctx, http.MethodDelete, "/api/v1/whitelist/"+source, "", func() (bool, error) {
		method, welcome := f.welcome(ctx, source, f.last(), 0)
		return welcome && method == 0xff, nil
	})
}

// tellAndSee asks the first replica for something, and is how long it takes, from
// the question on, for it to be so.
func (f *fleet) tellAndSee(ctx context.Context, method, path, body string, so func() (bool, error)) (time.Duration, error) {
	asked := make(chan error, 1)
	begin := time.Now()
	go func() { asked <- f.ask(ctx, method, 0, path, body) }()
	err := until(ctx, so)
	took := time.Since(begin)
	return took, errors.Join(err, <-asked)
}

func newsTable(b *bytes.Buffer, n int, all []news) {
	fmt.Fprintf(b, `
What an operator says at one of %d replicas, from the request to its effect on a client of another, %d times each:

| news | p50 ms | p99 ms | longest |
|---|---:|---:|---:|
`, n, newsRounds)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for _, one := range all {
		last := len(one.took) - 1
		fmt.Fprintf(b, "| %s | %.1f | %.1f | %.1f |\n", one.name, ms(one.took[last/2]), ms(one.took[last*99/100]), ms(one.took[last]))
	}
}
