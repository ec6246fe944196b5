package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Events hands events to whoever listens at /api/v1/events. A listener that is
// too slow loses some, and is told how many.
type Events struct {
	count atomic.Int64 // of listeners
	full  func()       // hears of each stream that is refused
	lost  func()       // hears of each event that one stream misses
	mu    sync.Mutex
	all   map[*listening]struct{}
}

// listening is one stream.
type listening struct {
	queue chan message // EventQueue
	lost  atomic.Uint64
	types []string // nil: all
}

type message struct {
	name string
	body []byte
}

// Bounds of the streams: each has a connection of the endpoint's few.
const (
	MaxStreams = 8
	EventQueue = 1024 // events that wait for one stream
	keepAlive  = 15 * time.Second
)

// NewEvents has no listeners yet. full hears of each stream that is refused
// because of MaxStreams, lost of each event that finds a stream's queue full.
func NewEvents(full, lost func()) *Events {
	return &Events{full: full, lost: lost, all: make(map[*listening]struct{})}
}

// Wanted says whether anybody listens.
func (e *Events) Wanted() bool { return e.count.Load() > 0 }

// Publish hands an event to all listeners. It does not wait.
func (e *Events) Publish(name string, event Event) {
	if !e.Wanted() {
		return
	}
	body, err := json.Marshal(event)
	if err != nil {
		return // its types are ours: it cannot be
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.all {
		if l.types != nil && !slices.Contains(l.types, name) {
			continue
		}
		select {
		case l.queue <- message{name, body}:
		default:
			l.lost.Add(1)
			e.lost()
		}
	}
}

// Lose tells all listeners that n events are lost which another process had to tell.
func (e *Events) Lose(n int) {
	if n <= 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.all {
		l.lost.Add(uint64(n))
		for range n {
			e.lost()
		}
	}
}

func (e *Events) join(types []string) *listening {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.all) >= MaxStreams {
		e.full()
		return nil
	}
	l := &listening{queue: make(chan message, EventQueue), types: types}
	e.all[l] = struct{}{}
	e.count.Store(int64(len(e.all)))
	return l
}

func (e *Events) leave(l *listening) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.all, l)
	e.count.Store(int64(len(e.all)))
}

// EventNames are the names of events, but for "lost".
var EventNames = []string{"opened", "closed", "denied", "reported", "banned", "reloaded", "user"}

// typesOf reads the names of the events that a client wants; nil: all.
func typesOf(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	types := strings.Split(list, ",")
	for _, t := range types {
		if !slices.Contains(EventNames, t) {
			return nil, BadInput("type: there is no event " + strconv.Quote(t) + ": there are " + strings.Join(EventNames, ", "))
		}
	}
	return types, nil
}

// streamEvents writes events as they come (server-sent events, the HTML
// standard §9.2) until the client leaves, or the endpoint ends and all that has come
// is written: whoever follows comes to an upgrade's successor at once.
func (a API) streamEvents(w http.ResponseWriter, c call) {
	types, err := typesOf(c.query.Get("type"))
	if err != nil {
		fail(w, err)
		return
	}
	l := a.Events.join(types)
	if l == nil {
		writeJSON(w, http.StatusServiceUnavailable, Failure{fmt.Sprintf("there are %d streams already", MaxStreams)})
		return
	}
	defer a.Events.leave(l)
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx in front would keep events back
	// A client that does not read for a minute loses the stream, not before.
	write := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(answerTimeout)) // else the write fails later
		_, err := w.Write([]byte(text))
		return err == nil && control.Flush() == nil
	}
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for ok := write(": CleverSocks\n\n"); ok; {
		select {
		case m := <-l.queue:
			ok = l.tell(m, write)
		case <-tick.C:
			ok = write(": still here\n\n")
		case <-ending(c.Context()):
			for ok && len(l.queue) > 0 {
				ok = l.tell(<-l.queue, write)
			}
			return
		case <-c.Context().Done():
			return
		}
	}
}

// tell writes an event, and how many were lost until then.
func (l *listening) tell(m message, write func(string) bool) bool {
	ok := write("event: " + m.name + "\ndata: " + string(m.body) + "\n\n")
	if n := l.lost.Swap(0); n > 0 && ok {
		ok = write(fmt.Sprintf("event: lost\ndata: {\"events\":%d}\n\n", n))
	}
	return ok
}
