package shared

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/rueidis"
)

// Meet connects to the store and reads who is banned, before Serve: the first
// connections are counted, and nobody comes who must not. Serve does as much if it
// fails, and may take its time.
func (s *Store) Meet(ctx context.Context) error {
	if err := s.tryConnect(); err != nil {
		return err
	}
	c := *s.client.Load()
	t, err := c.Do(ctx, c.B().Time().Build()).AsIntSlice()
	if err != nil || len(t) != 2 {
		return errors.Join(err, errAnswer)
	}
	s.offset.Store(t[0]*1000 + t[1]/1000 - time.Now().UnixMilli())
	met, err := s.newest(ctx, c) // first: what is told while the list is read is read again
	if err != nil {
		return err
	}
	s.met.Store(&met)
	return s.readBans(ctx, c)
}

// tryConnect makes the client, which fails while the store is not there, and may
// take seconds.
func (s *Store) tryConnect() error {
	client, err := s.open()
	if err == nil && !s.client.CompareAndSwap(nil, &client) {
		client.Close() // another call was faster
	}
	return err
}

func (s *Store) open() (rueidis.Client, error) {
	return rueidis.NewClient(s.target.Load().clientOptions())
}

// connect tries until ctx ends.
func (s *Store) connect(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := s.tryConnect()
		if err == nil {
			err = s.probe(ctx)
		}
		if err != nil {
			s.health.lost(ctx, s, err)
		}
		if s.client.Load() != nil {
			return nil // if it is of no use, watchHealth goes on
		}
		if !after(ctx, wait/2+rand.N(wait/2)) { //nolint:gosec // spreads load, keeps no secret
			return ctx.Err()
		}
	}
}

// reconnect puts another client in the place of the one there is, whose calls have
// their time to end. A client goes on with a connection for as long as that
// answers: it would never leave a server that takes no writes any more, nor try
// another password.
func (s *Store) reconnect() error {
	client, err := s.open()
	if err != nil {
		return err
	}
	old := s.client.Swap(&client)
	if old != nil && !s.background(func(ctx context.Context) { after(ctx, 2*readTimeout); (*old).Close() }) {
		(*old).Close()
	}
	return nil
}

// Retarget takes the secrets and certificates of a reload, for the same store.
func (s *Store) Retarget(t Target) {
	old := s.target.Load()
	if !old.sameStore(t) {
		return
	}
	s.target.Store(&t)
	if t.TLS || old.Password != t.Password || old.SentinelPassword != t.SentinelPassword {
		select {
		case s.renewed <- struct{}{}:
		default:
		}
	}
}

// sameStore reports whether two targets differ in nothing but secrets.
func (t Target) sameStore(o Target) bool {
	return slices.Equal(t.Addresses, o.Addresses) && t.Unix == o.Unix && t.TLS == o.TLS && t.Master == o.Master && t.Database == o.Database && t.User == o.User
}

// renew has new secrets used, until ctx ends. Until the store takes them the old
// connection stays.
func (s *Store) renew(ctx context.Context) error {
	for {
		select {
		case <-s.renewed:
		case <-ctx.Done():
			return ctx.Err()
		}
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			err := s.reconnect()
			if err == nil {
				s.log.LogAttrs(ctx, slog.LevelInfo, "the shared state has taken the secrets of the reload")
				break
			}
			if wait == time.Second {
				s.log.LogAttrs(ctx, slog.LevelWarn, "the shared state does not take the secrets of the reload; the connection of before stays", slog.Any("err", err))
			}
			if !after(ctx, wait) {
				return ctx.Err()
			}
		}
	}
}
