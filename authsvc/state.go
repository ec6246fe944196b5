package authsvc

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"

	"cleversocks/conn/textfile"
	"cleversocks/metrics"
)

// saveInterval is how often the services sweep and save; a crash loses no
// more than that.
const saveInterval = 10 * time.Second

// maxState bounds what is read of a state file.
const maxState = 64 << 20

// ErrCorrupt is wrapped by the error of a state file that is damaged or of
// another version. The file is kept beside, with ".bad" behind its name.
var ErrCorrupt = errors.New("corrupt state file")

// stateOS is what a stateFile does to the file system; tests make it fail.
type stateOS struct {
	open   func(path string) (io.ReadCloser, error)
	create func(path string) (stateTemp, error)
	rename func(from, to string) error
	sync   func(dir string) error
}

// stateTemp is a file that takes another's place, as renameio.PendingFile.
type stateTemp interface {
	io.Writer
	Name() string
	CloseAtomicallyReplace() error
	Cleanup() error // nothing, once it was replaced
}

func realOS() stateOS {
	return stateOS{
		open: func(path string) (io.ReadCloser, error) { return os.Open(path) }, //nolint:gosec // state.directory is the operator's
		create: func(path string) (stateTemp, error) {
			return renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o600))
		},
		rename: os.Rename, sync: syncDir,
	}
}

// stateFile keeps one value over restarts, as JSON behind a line with version
// and checksum. Only its owner's goroutine calls it.
type stateFile struct {
	dir, kind string // dir "": kept in memory only
	os        stateOS
	onError   func(error)
	outcomes  metrics.CounterVec2
	dirty     atomic.Bool // set by whoever changes the value

	// settled: what was on disk is read, absent, or moved aside. Before
	// that, saving could replace good data that merely could not be read.
	settled bool
	restore func(payload []byte) error // merges what was on disk; no change on error
	dump    func() any                 // what to write

	// elsewhere: another process saves the value, before this one or after it.
	elsewhere bool
	mu        sync.Mutex // of elsewhere, held while the file is written
}

// StateOptions says where state is kept and who hears of trouble with it.
type StateOptions struct {
	Directory string      // state.directory; "": in memory only
	Inherited bool        // a predecessor passes it on: nothing is read or saved until Table.Keep
	OnError   func(error) // logs at error; may be nil
	Metrics   *metrics.Auth
}

func newStateFile(o StateOptions, kind string) stateFile {
	return stateFile{dir: o.Directory, kind: kind, os: realOS(), onError: o.OnError, outcomes: o.Metrics.State, elsewhere: o.Inherited}
}

func (s *stateFile) path() string { return filepath.Join(s.dir, kindFile(s.kind)) }

func kindFile(kind string) string { return kind + ".state" }

// settle reads the file, once. A file that cannot be read is tried again at
// the next save; a corrupt one is moved aside.
func (s *stateFile) settle() {
	if s.settled || s.dir == "" || s.elsewhere {
		return
	}
	err := s.load()
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		s.settled = true
	case errors.Is(err, ErrCorrupt):
		aside, moveErr := s.moveAside()
		s.settled = moveErr == nil
		s.report(metrics.StateCorrupt, errors.Join(fmt.Errorf("%w; kept as %s, going on without", err, aside), moveErr))
	default:
		s.report(metrics.StateLoadFailed, fmt.Errorf("state %s: %w; going on without, nothing is saved until it can be read", s.kind, err))
	}
}

func (s *stateFile) load() error {
	f, err := s.os.open(s.path())
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	payload, err := decodeState(s.kind, data)
	if err == nil {
		err = s.restore(payload)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", s.path(), ErrCorrupt, err)
	}
	return nil
}

// moveAside keeps a bad file for a person to look at, the latest only beyond
// the first.
func (s *stateFile) moveAside() (string, error) {
	aside := s.path() + ".bad"
	if f, err := s.os.open(aside); err == nil {
		if err = f.Close(); err != nil {
			return aside, err
		}
		aside += ".latest"
	}
	return aside, s.os.rename(s.path(), aside)
}

// save writes the value if it changed. On failure the old file stays, the
// error is told, and the next save tries again.
func (s *stateFile) save() {
	if s.dir == "" || !s.dirty.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.elsewhere {
		return
	}
	if s.settle(); !s.settled {
		return
	}
	s.dirty.Store(false) // before dump: a change after it is saved next time
	if err := s.write(); err != nil {
		s.dirty.Store(true)
		s.report(metrics.StateSaveFailed, fmt.Errorf("state %s not saved, will be tried again: %w", s.kind, err))
		return
	}
	s.outcomes.Of(s.kind, metrics.StateSaved).Inc()
}

// write replaces the file at once or not at all: a temporary file beside it,
// read back, synced, renamed, and the directory synced.
func (s *stateFile) write() (err error) {
	payload, err := json.Marshal(s.dump())
	if err != nil {
		return err
	}
	data := encodeState(s.kind, payload)
	if len(data) > maxState {
		return fmt.Errorf("%d bytes are too many", len(data))
	}
	f, err := s.os.create(s.path())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = s.verify(f.Name(), data); err != nil {
		return err
	}
	if err = f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	if syncErr := s.os.sync(s.dir); syncErr != nil {
		s.report(metrics.StateSaveFailed, fmt.Errorf("state %s: sync %s: %w", s.kind, s.dir, syncErr))
	}
	return nil
}

// verify reads back what a file system said it wrote.
func (s *stateFile) verify(path string, want []byte) error {
	f, err := s.os.open(path)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("what was written does not read back")
	}
	return nil
}

func (s *stateFile) report(outcome string, err error) {
	s.outcomes.Of(s.kind, outcome).Inc()
	if s.onError != nil {
		s.onError(err)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // state.directory is the operator's
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// stateVersion is that of the format below.
const stateVersion = 1

func encodeState(kind string, payload []byte) []byte {
	sum := sha256.Sum256(payload)
	head := fmt.Sprintf("cleversocks-state %d %s %s\n", stateVersion, kind, hex.EncodeToString(sum[:]))
	return append([]byte(head), payload...)
}

func decodeState(kind string, data []byte) ([]byte, error) {
	if len(data) > maxState {
		return nil, errors.New("too large")
	}
	data, err := textfile.Trim(data) // a copy may have got a mark on its way
	if err != nil {
		return nil, err
	}
	head, payload, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		return nil, errors.New("no first line")
	}
	var version int
	var gotKind, sum string
	if n, err := fmt.Fscanf(bufio.NewReader(bytes.NewReader(head)), "cleversocks-state %d %s %s", &version, &gotKind, &sum); n != 3 || err != nil {
		return nil, errors.New("not a state file")
	}
	if version != stateVersion || gotKind != kind {
		return nil, fmt.Errorf("version %d of %q: version %d of %q is expected", version, gotKind, stateVersion, kind)
	}
	if got := sha256.Sum256(payload); hex.EncodeToString(got[:]) != sum {
		return nil, errors.New("checksum mismatch")
	}
	return payload, nil
}
