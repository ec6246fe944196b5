package usage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"cleversocks/metrics"
)

// spool holds batches until they were taken: a file each, which is the body
// that is posted, in state.directory/usage, or memory. A file's name is the batch's id, and sorts by
// age. Several processes may share the folder, as during an upgrade; who holds
// its lock pushes the batches of all.
type spool struct {
	dir      string // "": in memory
	instance string
	bytes    metricGauge

	mu     sync.Mutex
	next   uint64
	memory []batch
	lock   *os.File // nil: another process has it, or nobody tried
}

type metricGauge interface{ Store(int64) }

// batch is what is posted at once.
type batch struct {
	id     string
	body   []byte
	events int
}

// errFull is a spool without room.
var errFull = errors.New("usage.spool is full")

// suffix ends the names of batches that are whole.
const suffix = ".json"

func newSpool(directory, instance string, m metrics.Usage) *spool {
	s := &spool{instance: instance, bytes: m.Spool}
	if directory != "" {
		s.dir = filepath.Join(directory, "usage")
	}
	return s
}

// put adds a batch, if no more than limit bytes wait then.
func (s *spool) put(events []event, limit int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	b := batch{id: fmt.Sprintf("%019d-%s-%d", time.Now().UnixNano(), s.instance, s.next), events: len(events)}
	var err error
	if b.body, err = json.Marshal(struct {
		Batch  string  `json:"batch"`
		Events []event `json:"events"`
	}{b.id, events}); err != nil {
		return err
	}
	waiting := s.measure()
	if waiting+int64(len(b.body)) > limit {
		return errFull
	}
	if s.dir == "" {
		s.memory = append(s.memory, b)
	} else if err := s.write(b); err != nil {
		return err
	}
	s.bytes.Store(waiting + int64(len(b.body)))
	return nil
}

func (s *spool) write(b batch) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(s.path(b.id), b.body, 0o600, renameio.WithTempDir(s.dir))
}

func (s *spool) path(id string) string { return filepath.Join(s.dir, id+suffix) }

// measure is how many bytes wait.
func (s *spool) measure() (sum int64) {
	for _, b := range s.memory {
		sum += int64(len(b.body))
	}
	if s.dir == "" {
		return sum
	}
	entries, _ := os.ReadDir(s.dir) // it is not there before the first batch
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// list is the ids of batches that wait, the oldest first.
func (s *spool) list() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.memory {
		ids = append(ids, b.id)
	}
	if s.dir == "" {
		return ids
	}
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok && e.Type().IsRegular() && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// get reads a batch.
func (s *spool) get(id string) (batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.memory {
		if b.id == id {
			return b, nil
		}
	}
	body, err := os.ReadFile(s.path(id))
	return batch{id: id, body: body, events: max(1, bytes.Count(body, []byte(`{"id":`)))}, err
}

// remove forgets a batch that was taken, or never will be.
func (s *spool) remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.bytes.Store(s.measure()) }()
	for i, b := range s.memory {
		if b.id == id {
			s.memory = slices.Delete(s.memory, i, i+1)
			return nil
		}
	}
	return os.Remove(s.path(id))
}

// mine says whether this process pushes what waits. The lock ends with the process that
// has it.
func (s *spool) mine() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" || s.lock != nil {
		return true
	}
	if _, err := os.Stat(s.dir); err != nil {
		return false // nothing waits yet
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return false
	}
	s.lock = f
	s.sweep()
	s.bytes.Store(s.measure())
	return true
}

// sweep removes what a process that was ended while it wrote has left.
func (s *spool) sweep() {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		info, err := e.Info()
		if strings.HasPrefix(e.Name(), ".") && err == nil && time.Since(info.ModTime()) > time.Minute {
			_ = os.Remove(filepath.Join(s.dir, e.Name())) // it is tried again at the next start
		}
	}
}

// forgotten is how many events are in memory alone.
func (s *spool) forgotten() (events int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.memory {
		events += b.events
	}
	return events
}

// close gives the lock to whoever comes next.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		_ = s.lock.Close() // nothing was written
		s.lock = nil
	}
}
