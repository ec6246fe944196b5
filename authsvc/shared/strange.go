package shared

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// What is stored under a name of ours may be another program's, that has the same
// prefix, or was written by hand. The store is well then, and so are all other users
// and addresses: what belongs to this key is decided as if the store did not answer.

// strangeKey is an error about one key, which holds something else than a script of ours
// has put there.
type strangeKey struct {
	key string
	err error
}

func (e *strangeKey) Error() string { return e.key + ": " + e.err.Error() }
func (e *strangeKey) Unwrap() error { return e.err }

// about says which key an answer is about, if it is strange.
func about(key string, err error) error {
	if isStrange(err) {
		return &strangeKey{key, err}
	}
	return err
}

// isStrange reports whether an error is about what a key holds, and not about the store.
func isStrange(err error) bool {
	if errors.Is(err, errAnswer) {
		return true
	}
	e, is := errors.AsType[*rueidis.RedisError](err)
	if !is || e.IsNil() {
		return false
	}
	text := e.Error()
	return strings.Contains(text, "WRONGTYPE") || strings.HasPrefix(text, "user_script:") // what went wrong in a script; the library leaves out ERR
}

// strange is what was found of these.
type strange struct {
	mu   sync.Mutex
	at   time.Duration // the last time; 0: never
	last string        // its key
	told map[string]time.Duration
}

// Bounds of what the log says of strange keys: each once an hour.
const (
	maxStrangeTold = 64
	strangeQuiet   = time.Hour
)

// found notes a strange key.
func (x *strange) found(ctx context.Context, s *Store, err error) {
	e, is := errors.AsType[*strangeKey](err)
	if !is {
		return
	}
	now := max(s.now(), 1)
	x.mu.Lock()
	x.at, x.last = now, e.key
	since, was := x.told[e.key]
	tell := !was && len(x.told) < maxStrangeTold || was && now-since > strangeQuiet
	if tell {
		if x.told == nil {
			x.told = make(map[string]time.Duration)
		}
		x.told[e.key] = now
	}
	x.mu.Unlock()
	if tell {
		s.log.LogAttrs(ctx, slog.LevelWarn, "the shared state holds something that is not ours under a name of ours: another program with the same prefix?",
			slog.String("key", e.key), slog.Any("err", e.err))
	}
}

// isNow reports whether one was found within a while.
func (x *strange) isNow(now, while time.Duration) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.at != 0 && now-x.at <= while
}

func (x *strange) example() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.last == "" {
		return ""
	}
	return ": " + x.last
}
