package shared

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// outList is the users who are disabled: by this replica's settings, and by
// those of others. A user is out for as long as one replica that lives says so.
//
// A replica names its list with each beat. The names of the users are stored once, for
// all that have the same: whoever meets a list that it does not know reads it.
type outList struct {
	mu        sync.Mutex
	own       map[string]struct{}
	stored    string                          // the own list's name, once it is stored
	named     string                          // by the last beat
	lists     map[string]map[string]struct{}  // of others, that were read, by name; no list changes
	elsewhere map[string]map[string]time.Time // what events told of late, by user and replica: since when we know
}

// mine is the own list, and its name: "" for an empty one.
func (o *outList) mine() (name string, users []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.own) == 0 {
		return "", nil
	}
	users = slices.Sorted(maps.Keys(o.own))
	sum := sha256.New()
	for _, u := range users {
		_, _ = fmt.Fprintf(sum, "%d:%s", len(u), u) // never fails
	}
	return hex.EncodeToString(sum.Sum(nil)[:16]), users
}

func (o *outList) isStored(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stored = name
}

// storeOut stores the own list, if it is not, and returns its name.
func (s *Store) storeOut(ctx context.Context) string {
	name, users := s.out.mine()
	s.out.mu.Lock()
	same := s.out.stored == name
	s.out.mu.Unlock()
	if same || name == "" {
		return name
	}
	names := make([][]byte, len(users))
	for i, u := range users {
		names[i] = []byte(u) // names are bytes
	}
	text, err := json.Marshal(names)
	if err != nil {
		return name // its types are ours: it cannot be
	}
	if s.call(ctx, "fleet", func(ctx context.Context, c rueidis.Client) error {
		return c.Do(ctx, c.B().Set().Key(s.keys.outList(name)).Value(string(text)).Px(s.rhythm.keyLife()).Build()).Error()
	}) == nil { // if not, the beat says so
		s.out.isStored(name)
	}
	return name
}

// Out reports whether another replica's settings have disabled a user.
func (s *Store) Out(user string) bool {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return s.out.has(user)
}

// maxOutEvents is how many users are told one by one when settings change.
const maxOutEvents = 64

// named has the others read the own list, if the beat that was taken named another than
// the one before.
func (s *Store) named(list string) {
	s.out.mu.Lock()
	isNew := s.out.named != list
	s.out.named = list
	s.out.mu.Unlock()
	if isNew {
		s.publish(event{Kind: eventOut}) // of nobody by name
	}
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
	var out, in []string
	for u := range now {
		if _, was := before[u]; !was {
			out = append(out, u)
		}
	}
	for u := range before {
		if _, is := now[u]; !is {
			in = append(in, u)
		}
	}
	if len(out)+len(in) <= maxOutEvents { // else others hear of the list that the next beat names
		for _, u := range out {
			s.publish(event{Kind: eventOut, User: u})
		}
		for _, u := range in {
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

// takeOut takes the lists of all others. What an event told a moment ago may not be in
// them yet.
func (s *Store) takeOut(ctx context.Context, names []string) {
	lists, err := s.readOut(ctx, names)
	if err != nil {
		return // what is known stays, until the next beat
	}
	o, now := &s.out, time.Now()
	o.mu.Lock()
	more := o.names(lists)
	o.lists = lists
	for user, by := range o.elsewhere {
		maps.DeleteFunc(by, func(_ string, since time.Time) bool { return now.Sub(since) >= backgroundTimeout })
		if len(by) == 0 {
			delete(o.elsewhere, user)
		}
	}
	o.mu.Unlock()
	s.outChanged(more)
}

// names reports whether lists that were not known name anybody who is not out. The lock
// is held.
func (o *outList) names(lists map[string]map[string]struct{}) bool {
	for name, users := range lists {
		if o.lists[name] != nil {
			continue
		}
		for user := range users {
			if !o.has(user) {
				return true
			}
		}
	}
	return false
}

// has reports whether a user is out elsewhere. The lock is held.
func (o *outList) has(user string) bool {
	if len(o.elsewhere[user]) > 0 {
		return true
	}
	for _, users := range o.lists { // there is one, where all have the same settings
		if _, out := users[user]; out {
			return true
		}
	}
	return false
}

// readOut are the lists of these names, of which those that are not known are read.
func (s *Store) readOut(ctx context.Context, names []string) (map[string]map[string]struct{}, error) {
	s.out.mu.Lock()
	known := s.out.lists
	s.out.mu.Unlock()
	lists := make(map[string]map[string]struct{}, len(names))
	for _, name := range names {
		if users, ok := known[name]; ok {
			lists[name] = users
			continue
		}
		err := s.call(ctx, "fleet", func(ctx context.Context, c rueidis.Client) error {
			text, err := c.Do(ctx, c.B().Get().Key(s.keys.outList(name)).Build()).ToString()
			if rueidis.IsRedisNil(err) {
				return nil // its owner stores it again
			}
			if err != nil {
				return err
			}
			var users [][]byte
			_ = json.Unmarshal([]byte(text), &users) // of another version perhaps: what it has is enough
			lists[name] = make(map[string]struct{}, len(users))
			for _, u := range users {
				lists[name][string(u)] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return lists, nil
}
