package tlsconf

import (
	"io/fs"
	"os"
	"time"
)

// fileState is what tells that a file is another one than before. It sees a
// rename over it, and what a symbolic link points to.
type fileState struct {
	path     string
	modified time.Time
	size     int64
	info     fs.FileInfo
}

type fileStates []fileState

// stat looks at all files of the options.
func (o *Options) stat() fileStates {
	var out fileStates
	for _, path := range []string{o.Cert, o.Key, o.ClientCA, o.CRL} {
		if path == "" {
			continue
		}
		state := fileState{path: path}
		if info, err := os.Stat(path); err == nil {
			state.modified, state.size, state.info = info.ModTime(), info.Size(), info
		}
		out = append(out, state)
	}
	return out
}

func (s fileStates) same(other fileStates) bool {
	for i := range s {
		a, b := s[i], other[i]
		if !a.modified.Equal(b.modified) || a.size != b.size || (a.info == nil) != (b.info == nil) ||
			a.info != nil && !os.SameFile(a.info, b.info) {
			return false
		}
	}
	return true
}

// Change is what a reload prepared: the files, read again.
type Change struct {
	door *Door
	next *material
}

// Prepare reads the files again. Nothing changes until Commit.
func (d *Door) Prepare() (*Change, error) {
	next, err := d.read()
	if err != nil {
		return nil, err
	}
	return &Change{door: d, next: next}, nil
}

// Commit puts what was read in force for new connections.
func (c *Change) Commit() { c.door.replace(c.next) }

// Rollback forgets what was read.
func (c *Change) Rollback() { c.door.forget(c.next) }

func (d *Door) replace(next *material) { d.forget(d.current.Swap(next)) }

// forget lets the ticket keys of a material go that no new connection gets.
func (d *Door) forget(m *material) { d.keeper.tickets.forget(m.config, m.plain) }
