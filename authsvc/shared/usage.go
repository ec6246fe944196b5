package shared

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// usage is what a replica shows of its users to the others: the connections of
// those who have most.
type usage struct {
	mu   sync.Mutex
	last string
	at   time.Duration
}

// maxShown bounds the users that a replica shows, and the store keeps of it.
const maxShown = 2000

// shownUser is an element of what is stored. A name is raw bytes: base64.
type shownUser struct {
	User        []byte `json:"u"`
	Connections int    `json:"n"`
}

// showUsage writes the users' connections if they have changed, or if what is
// stored would end.
func (s *Store) showUsage(ctx context.Context) {
	list := []shownUser{}
	for _, u := range s.allSeats() {
		u.mu.Lock()
		if u.held > 0 {
			list = append(list, shownUser{[]byte(u.user), u.held})
		}
		u.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b shownUser) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), slices.Compare(a.User, b.User))
	})
	text, err := json.Marshal(list[:min(len(list), maxShown)])
	if err != nil {
		return // its types are ours: it cannot be
	}
	s.usage.mu.Lock()
	same := s.usage.last == string(text) && s.now() < s.usage.at+s.rhythm.lease/2 || s.now() < s.usage.at+s.showPause()
	s.usage.mu.Unlock()
	if same {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	if s.call(ctx, "usage", func(ctx context.Context, c rueidis.Client) error {
		return c.Do(ctx, c.B().Set().Key(s.keys.usage(s.id)).Value(string(text)).Px(s.rhythm.lease+s.rhythm.beat+s.showPause()).Build()).Error()
	}) == nil {
		s.usage.mu.Lock()
		s.usage.last, s.usage.at = string(text), s.now()
		s.usage.mu.Unlock()
	}
}

// showEvery is how old what others see may be, in a small fleet.
const showEvery = time.Second

// showPause is the same in this fleet: all its replicas together write no more
// than fifty of these a second.
func (s *Store) showPause() time.Duration {
	return max(showEvery/2, time.Duration(s.fleet.count())*20*time.Millisecond)
}

func decodeUsage(text string) map[string]int {
	var list []shownUser
	if json.Unmarshal([]byte(text), &list) != nil {
		return nil
	}
	users := make(map[string]int, len(list))
	for _, u := range list {
		users[string(u.User)] = u.Connections
	}
	return users
}
