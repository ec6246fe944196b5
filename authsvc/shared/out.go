package shared

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// outList is the users who are disabled: by this replica's settings, and by
// those of others. A user is out for as long as one replica that lives says so.
type outList struct {
	mu        sync.Mutex
	own       map[string]struct{}
	elsewhere map[string]map[string]time.Time // by user and replica: since when we know
}

func (o *outList) mine() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.own))
}

// Out reports whether another replica's settings have disabled a user.
func (s *Store) Out(user string) bool {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return len(s.out.elsewhere[user]) > 0
}

// PutOut says which users this replica's settings disable.
func (s *Store) PutOut(users []string) {
	now := make(map[string]struct{}, len(users))
	for _, u := range users {
		now[u] = struct{}{}
	}
	s.out.mu.Lock()
	before := s.out.own
	s.out.own = now
	s.out.mu.Unlock()
	for u := range now {
		if _, was := before[u]; !was {
			s.publish(event{Kind: eventOut, User: u})
		}
	}
	for u := range before {
		if _, is := now[u]; !is {
			s.publish(event{Kind: eventIn, User: u})
		}
	}
	if !maps.Equal(before, now) {
		s.fleet.kick()
	}
}

// outElsewhere takes what one replica says of one user.
func (s *Store) outElsewhere(user, replica string, out bool) {
	s.out.mu.Lock()
	if out {
		if s.out.elsewhere[user] == nil {
			s.out.elsewhere[user] = make(map[string]time.Time)
		}
		s.out.elsewhere[user][replica] = time.Now()
	} else if delete(s.out.elsewhere[user], replica); len(s.out.elsewhere[user]) == 0 {
		delete(s.out.elsewhere, user)
	}
	s.out.mu.Unlock()
	s.outChanged(out)
}

func (s *Store) outChanged(more bool) {
	if more && s.hooks.Out != nil {
		s.hooks.Out()
	}
}

// takeOut takes the whole list, as "user|replica". What an event told a moment
// ago may not be in it yet.
func (s *Store) takeOut(list []string) {
	now := time.Now()
	next := make(map[string]map[string]time.Time)
	more := false
	s.out.mu.Lock()
	put := func(user, replica string, since time.Time) {
		if next[user] == nil {
			next[user] = make(map[string]time.Time)
		}
		next[user][replica] = since
	}
	for _, entry := range list {
		i := strings.LastIndexByte(entry, '|')
		if i < 0 {
			continue
		}
		put(entry[:i], entry[i+1:], time.Time{})
		more = more || s.out.elsewhere[entry[:i]] == nil
	}
	for user, replicas := range s.out.elsewhere {
		for replica, since := range replicas {
			if now.Sub(since) < backgroundTimeout {
				put(user, replica, since)
			}
		}
	}
	s.out.elsewhere = next
	s.out.mu.Unlock()
	s.outChanged(more)
}
