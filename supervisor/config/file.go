package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sort"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	gotoml "github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"cleversocks/conn/textfile"
)

// maxFile bounds the configuration file.
const maxFile = 16 << 20

// file is the configuration file over all loads.
type file struct {
	path  string
	stdin io.Reader // what is read in place of a file called Stdin
	read  bool      // it was, before
	full  bool      // and something was in it
	once  []byte    // what came through a pipe, which ends with the first reading; nil: it is a regular file
}

// name is how messages call the file.
func (f *file) name() string {
	if f.path == Stdin {
		return "standard input"
	}
	return f.path
}

// onDisk is the path of a file that somebody may have to reach, or "".
func (f *file) onDisk() string {
	if f.path == Stdin {
		return ""
	}
	return f.path
}

// Text is what was in the configuration file of these settings, secrets included; nil:
// there was no file.
func (c *Config) Text() []byte { return c.text }

// loadFile takes the TOML file, or what another process found in it.
func (r *run) loadFile(f *file, text []byte) {
	if text != nil {
		r.cfg.text = text
		r.loadTOML(f.name(), text)
		return
	}
	doc, err := f.load()
	if err != nil {
		r.add(origin{layer: fromFile, where: f.name()}, "", "%v", err)
		return
	}
	if f.once != nil && f.read {
		text := f.name() + " is a pipe, which cannot be read again: what was read from it at the start stays"
		if f.path == Stdin {
			text = "the configuration came from standard input, which cannot be read again: what was read from it at the start stays, and only the files that it names, the environment's and the flags' are new; --config FILE can be reloaded"
		}
		r.cfg.Warnings = append(r.cfg.Warnings, text)
	}
	f.read = true
	r.cfg.text = append([]byte{}, doc...) // not nil, even if it is empty
	r.loadTOML(f.name(), doc)
}

// loadStdin reads standard input to its end.
func (f *file) loadStdin() ([]byte, error) {
	if f.stdin == nil {
		f.stdin = strings.NewReader("")
	}
	doc, err := io.ReadAll(io.LimitReader(f.stdin, maxFile+1))
	switch {
	case err != nil:
		return nil, bare(err)
	case len(doc) > maxFile:
		return nil, fmt.Errorf("is larger than %s", Size(maxFile))
	}
	if doc, err = textfile.Trim(doc); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, errors.New("nothing came: did the command before it fail? A comment means the defaults")
	}
	f.once = append([]byte{}, doc...)
	return doc, nil
}

// load reads the file. That a daemon that asks for passwords finds nothing in
// it later on, and so goes on without any, is hardly meant: a pipe is at its
// end when it is read again, and who writes a file in place empties it first.
func (f *file) load() ([]byte, error) {
	if f.once != nil {
		return f.once, nil
	}
	if f.path == Stdin {
		return f.loadStdin()
	}
	if f.read {
		info, err := os.Stat(f.path)
		if err != nil {
			return nil, bare(err)
		}
		if !info.Mode().IsRegular() { // opening it could take for ever
			return nil, errors.New("is no regular file any more")
		}
	}
	doc, mode, err := readBounded(f.path, maxFile)
	if err != nil {
		return nil, err
	}
	if doc, err = textfile.Trim(doc); err != nil {
		return nil, err
	}
	empty := len(bytes.TrimSpace(doc)) == 0
	switch {
	case empty && mode&os.ModeNamedPipe != 0:
		return nil, errors.New("nothing came through this pipe: did the command behind it fail?")
	case empty && f.full:
		return nil, errors.New("is empty, and was not before: is it being written? A comment in it means the defaults")
	case !mode.IsRegular():
		f.once = append([]byte{}, doc...)
	}
	f.full = f.full || !empty
	return doc, nil
}

func (r *run) loadTOML(path string, doc []byte) {
	var tables map[string]any
	if err := gotoml.Unmarshal(doc, &tables); err != nil {
		r.add(syntaxOrigin(path, err), "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	if r.only != "" {
		maps.DeleteFunc(tables, func(name string, _ any) bool { return name != r.only })
	}
	at := positions(doc)
	r.load(confmap.Provider(tables, ""), source{origin: func(key string) origin {
		return fileOrigin(path, at, key)
	}})
}

func syntaxOrigin(path string, err error) origin {
	o := origin{layer: fromFile, where: path}
	if de, ok := errors.AsType[*gotoml.DecodeError](err); ok {
		o.line, o.col = de.Position()
		o.where = fmt.Sprintf("%s:%d:%d", path, o.line, o.col)
	}
	return o
}

// fileOrigin is the position of a key, or of the nearest table around it.
func fileOrigin(path string, at map[string]position, key string) origin {
	for key != "" {
		if p, ok := at[key]; ok {
			return origin{
				layer: fromFile, where: fmt.Sprintf("%s:%d:%d", path, p.Line, p.Column),
				line: p.Line, col: p.Column,
			}
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return origin{layer: fromFile, where: path}
}

// readBounded reads a regular file, or a pipe such as a shell's <(...), of at
// most limit bytes, and says which it is.
func readBounded(path string, limit int64) ([]byte, os.FileMode, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, 0, bare(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, 0, bare(err)
	}
	doc, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, bare(err)
	}
	if int64(len(doc)) > limit {
		return nil, 0, fmt.Errorf("is larger than %s", Size(limit))
	}
	return doc, info.Mode(), nil
}

// bare drops the operation and path that the message has already.
func bare(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// positions maps each key and table of a document that parses to its place:
// "log.level", "listener[1]", "listener[1].address".
func positions(doc []byte) map[string]position {
	ix := &indexer{at: make(map[string]position), elements: make(map[string]int), lines: lineStarts(doc)}
	ix.p.Reset(doc)
	prefix := ""
	for ix.p.NextExpression() {
		switch e := ix.p.Expression(); e.Kind {
		case unstable.Table:
			prefix = ix.key("", e.Key())
		case unstable.ArrayTable:
			path := ix.key("", e.Key())
			prefix = fmt.Sprintf("%s[%d]", path, ix.elements[path])
			ix.elements[path]++
			ix.at[prefix] = ix.at[path]
		case unstable.KeyValue:
			ix.keyValue(prefix, e)
		default:
		}
	}
	return ix.at
}

// position is a place in a document; lines and columns begin at 1.
type position struct{ Line, Column int }

// lineStarts are the offsets at which the lines of a document begin.
func lineStarts(doc []byte) []int {
	starts := []int{0}
	for i, c := range doc {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

type indexer struct {
	p        unstable.Parser
	lines    []int // see lineStarts; the parser itself counts from the top for each key
	at       map[string]position
	elements map[string]int // of each array of tables so far
}

// key notes the parts of a dotted key below prefix and returns its full path.
// A part that names an array of tables means its last element.
func (ix *indexer) key(prefix string, parts unstable.Iterator) string {
	path := prefix
	for parts.Next() {
		n := parts.Node()
		if count := ix.elements[path]; count > 0 {
			path = fmt.Sprintf("%s[%d]", path, count-1)
		}
		path = join(path, string(n.Data))
		ix.at[path] = ix.position(int(n.Raw.Offset))
	}
	return path
}

func (ix *indexer) position(offset int) position {
	line := sort.Search(len(ix.lines), func(i int) bool { return ix.lines[i] > offset })
	return position{line, offset - ix.lines[line-1] + 1}
}

func (ix *indexer) keyValue(prefix string, e *unstable.Node) {
	path := ix.key(prefix, e.Key())
	ix.value(path, e.Value())
}

// value descends into inline tables and lists.
func (ix *indexer) value(path string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			ix.keyValue(path, it.Node())
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			n, element := it.Node(), fmt.Sprintf("%s[%d]", path, i)
			ix.at[element] = ix.at[path]
			switch {
			case n.Kind == unstable.InlineTable:
				ix.value(element, n)
			case n.Raw.Length > 0: // one on the list's own line is found by the list's name
				if p := ix.position(int(n.Raw.Offset)); p.Line != ix.at[path].Line {
					ix.at[element] = p
				}
			default:
			}
		}
	default:
	}
}
