package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// Stdin is the name of the file that is standard input.
const Stdin = "-"

// Sources are where settings come from, besides the defaults.
type Sources struct {
	// File is the TOML file's path; "": none, Stdin: standard input.
	File string
	// Stdin is read, once and to its end, where File says so; nil: it is empty.
	Stdin io.Reader
	// FileGiven says that File was given, even if empty: a variable that is
	// not set must not mean the defaults, which let everybody in.
	FileGiven bool
	// Piped is what a predecessor has read from File, which is a pipe or standard
	// input; nil: it is neither, or was not read yet.
	Piped []byte
	// Filled says that a predecessor has found something in File.
	Filled bool
	// Flags were registered by RegisterFlags and parsed; nil: none.
	Flags *pflag.FlagSet
	// Environ holds NAME=VALUE, as os.Environ gives it.
	Environ []string
	// Overrides are for programs that take few settings as flags.
	Overrides []Override
}

// Override is a flag that sets one key.
type Override struct {
	Key  string // "admin.address"
	Flag string // its name, for messages
	// Value in the text form of the environment.
	Value string
}

// Loader reads the sources, again and again. It keeps the environment that it
// was made with, so that a secret can be taken out of the process's own.
// One Load at a time.
type Loader struct {
	sources Sources
	file    file
	names   hostNames
}

// NewLoader makes a loader. It keeps copies of the environment's strings.
func NewLoader(s Sources) *Loader {
	environ := make([]string, len(s.Environ))
	for i, e := range s.Environ {
		environ[i] = strings.Clone(e)
	}
	s.Environ = environ
	return &Loader{sources: s, file: file{path: s.File, stdin: s.Stdin, once: s.Piped, full: s.Filled}, names: newHostNames()}
}

// Piped is what was read from File, if that is a pipe.
func (l *Loader) Piped() []byte { return l.file.once }

// Filled says whether there was something in File.
func (l *Loader) Filled() bool { return l.file.full }

// Load reads everything again, secret files included, and validates it. An
// error wraps ErrInvalid and tells all that is wrong. Names of listen
// addresses, and of -w and -b, are resolved under ctx; one that an earlier Load resolved keeps its
// address, with a warning, while it cannot be resolved.
func (l *Loader) Load(ctx context.Context) (*Config, error) { return l.LoadText(ctx, nil) }

// LoadText is Load with what another process found in File and has verified, so that
// both go by the same, whatever was written to the file since. nil: File is read.
func (l *Loader) LoadText(ctx context.Context, text []byte) (*Config, error) {
	r := &run{
		cfg:    &Config{file: l.file.onDisk(), origins: make(map[string]origin)},
		k:      newKoanf(),
		lookUp: func(host string) (netip.Addr, error) { return l.names.address(ctx, host) },
	}
	r.loadDefaults()
	switch {
	case l.sources.File != "":
		r.loadFile(&l.file, text)
	case l.sources.FileGiven:
		r.add(flagOrigin("config", ""), "", "is empty: name a file, or leave the flag out")
	}
	r.loadEnv(l.sources.Environ)
	if l.sources.Flags != nil {
		r.loadFlags(l.sources.Flags)
	}
	for _, o := range l.sources.Overrides {
		r.load(confmap.Provider(map[string]any{o.Key: o.Value}, "."), source{text: true, origin: func(string) origin { return flagOrigin(o.Flag, "") }})
	}
	r.decode()
	r.finish(ctx, l.sources.Flags, &l.names)
	if err := r.err(); err != nil {
		return nil, err
	}
	return r.cfg, nil
}

// LoadAdmin reads the management endpoint's settings alone, without its token
// and without judging others, for a program that only asks a running daemon.
// What the daemon would refuse elsewhere is no reason not to ask it.
func (l *Loader) LoadAdmin(ctx context.Context) (Admin, error) {
	r := &run{cfg: &Config{origins: make(map[string]origin)}, k: newKoanf(), only: "admin"}
	r.loadDefaults()
	if l.sources.File != "" {
		r.loadFile(&l.file, nil)
	}
	r.loadEnv(l.sources.Environ)
	if l.sources.Flags != nil {
		r.loadFlags(l.sources.Flags)
	}
	r.decode()
	r.list = slices.DeleteFunc(r.list, func(p problem) bool {
		return !strings.HasPrefix(p.key, "admin.") && (p.key != "" || p.origin.layer != fromFile)
	})
	f := &finisher{problems: &r.problems, ctx: ctx, cfg: r.cfg, names: &l.names}
	f.resolve("admin.address", r.cfg.originOf("admin.address"), &r.cfg.Admin.Address.ListenAddress)
	return r.cfg.Admin, r.err()
}

// run is one Load: a fresh koanf, and what was found wrong so far.
type run struct {
	problems
	cfg  *Config
	k    *koanf.Koanf
	only string // the one section that the file is read for; "": all
	// lookUp resolves a name that a flag gives in the place of an address; nil: such
	// names are not of interest.
	lookUp func(host string) (netip.Addr, error)
}

func (r *run) loadDefaults() {
	m := make(map[string]any)
	for _, sec := range r.cfg.sections() {
		if !sec.isArray() {
			for _, k := range sec.keys {
				m[sec.name+"."+k.Name] = k.Default
			}
			continue
		}
		elements := make([]any, sec.initial)
		for i := range elements {
			elements[i] = map[string]any{}
		}
		m[sec.name] = elements
	}
	r.merge(confmap.Provider(m, "."), origin{})
}

// source is one layer on its way in: how its values are spelled, and where
// each comes from.
type source struct {
	text   bool // values are text, as in the environment
	origin func(path string) origin
	known  []string // for suggestions
}

// load takes the layer that p provides. Each value is tried by itself, so
// that all wrong ones are found; only right ones are merged.
func (r *run) load(p koanf.Provider, s source) {
	layer := newKoanf()
	if err := layer.Load(p, nil); err != nil {
		r.add(s.origin(""), "", "%v", err)
		return
	}
	var scratch Config
	sections := scratch.sections()
	s.known = paths(sections)
	good := r.keep(layer.Raw(), treeOf(sections), "", s)
	r.merge(confmap.Provider(good, ""), s.origin(""))
}

func (r *run) merge(p koanf.Provider, o origin) {
	if err := r.k.Load(p, nil); err != nil {
		r.add(o, "", "%v", err)
	}
}

// keep returns what is right of m, whose place in the settings is n at path.
func (r *run) keep(m map[string]any, n *node, path string, s source) map[string]any {
	good := make(map[string]any, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		v, full := m[name], join(path, name)
		child := n.children[name]
		switch {
		case child == nil:
			r.add(s.origin(full), clip(full), "unknown key%s", DidYouMean(full, s.known))
		case child.key != nil:
			if err := child.key.set(v, s.text); err != nil {
				r.refuse(full, s, err)
				continue
			}
			good[name] = v
			r.cfg.origins[full] = s.origin(full)
			r.placeElements(v, full, s)
		case child.array != nil && !isTable(v):
			good[name] = r.keepArray(v, child, full, s)
		default:
			inner, ok := v.(map[string]any)
			if !ok {
				r.add(s.origin(full), full, "must be a table: write [%s]", full)
				continue
			}
			if child.array != nil && len(child.children) == 0 {
				r.add(s.origin(full), full, "is a list of tables: write [[%s]], with two brackets", full)
				continue
			}
			good[name] = r.keep(inner, child, full, s)
		}
	}
	return good
}

// placeElements notes where the elements of a list are, if not on its own line.
func (r *run) placeElements(v any, path string, s source) {
	list, isList := v.([]any)
	if !isList || s.text {
		return
	}
	of := r.cfg.origins[path]
	for i := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if o := s.origin(at); o.line != of.line {
			r.cfg.origins[at] = o
		}
	}
}

// refuse notes what is wrong with a value: with a list each element by itself,
// at its own line.
func (r *run) refuse(path string, s source, err error) {
	elements, isList := errors.AsType[elementErrors](err)
	if !isList {
		r.add(s.origin(path), path, "%v", err)
		return
	}
	for _, e := range elements {
		at := path
		if !s.text { // the environment and flags have no lines
			at = fmt.Sprintf("%s[%d]", path, e.index)
		}
		r.add(s.origin(at), path, "%v", e)
	}
}

// keepArray returns what is right of the elements of an array table.
func (r *run) keepArray(v any, n *node, path string, s source) []any {
	elements, ok := asTables(v)
	if !ok {
		r.add(s.origin(path), path, "must be tables: write [[%s]]", path)
		return nil
	}
	if len(elements) > maxList {
		r.add(s.origin(path), path, "has %d elements, more than %d", len(elements), maxList)
		return nil
	}
	maps.DeleteFunc(r.cfg.origins, func(p string, _ origin) bool { return strings.HasPrefix(p, path+"[") })
	r.cfg.origins[path] = s.origin(path)
	good := make([]any, len(elements))
	for i, element := range elements {
		n.array.grow(func(keys []Key) {
			tree := &node{}
			tree.add(keys)
			at := fmt.Sprintf("%s[%d]", path, i)
			r.cfg.origins[at] = s.origin(at)
			good[i] = r.keep(element, tree, at, s)
		})
	}
	return good
}

// decode fills the Config from what was merged. Nothing can be wrong with
// single values any more.
func (r *run) decode() {
	for _, sec := range r.cfg.sections() {
		if !sec.isArray() {
			for _, k := range sec.keys {
				r.assign(&k, sec.name+"."+k.Name, r.k.Get(sec.name+"."+k.Name))
			}
			continue
		}
		elements, _ := asTables(r.k.Get(sec.name))
		for i, element := range elements {
			sec.grow(func(keys []Key) {
				for _, k := range keys {
					r.assign(&k, fmt.Sprintf("%s[%d].%s", sec.name, i, k.Name), lookUp(element, k.Name))
				}
			})
		}
	}
}

// assign sets a key to v, or to its default when there is none.
func (r *run) assign(k *Key, path string, v any) {
	text := r.cfg.origins[path].layer != fromFile
	if v == nil {
		v, text = k.Default, true
	}
	if err := k.set(v, text); err != nil {
		r.add(r.cfg.origins[path], path, "%v", err)
	}
	r.unmask(k, path)
}

// join is the path of a name below another. A name that TOML wants in quotes has them
// here: "log.level" in one pair is no level of the log, and an empty one is seen.
func join(path, name string) string {
	if !isBare(name) {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// isBare says whether TOML takes a key without quotes.
func isBare(name string) bool {
	other := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}
	return name != "" && !strings.ContainsFunc(name, other)
}

func isTable(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

// asTables reads a list of tables, as TOML or our own layers build it.
func asTables(v any) ([]map[string]any, bool) {
	list, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]map[string]any, len(list))
	for i, e := range list {
		if out[i], ok = e.(map[string]any); !ok {
			return nil, false
		}
	}
	return out, true
}

// lookUp finds a dotted name in nested tables; nil when it is not there.
func lookUp(m map[string]any, name string) any {
	for {
		head, rest, nested := strings.Cut(name, ".")
		if !nested {
			return m[head]
		}
		inner, ok := m[head].(map[string]any)
		if !ok {
			return nil
		}
		m, name = inner, rest
	}
}

// originOf is where path was set, or the nearest table around it.
func (c *Config) originOf(path string) origin {
	for {
		if o, ok := c.origins[path]; ok {
			return o
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return origin{}
		}
		path = path[:i]
	}
}

// newKoanf is fresh for each load, so that none sees another's values.
func newKoanf() *koanf.Koanf { return koanf.New(".") }
