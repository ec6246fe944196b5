package config

import "strings"

// Key is one setting: the only place that knows its name, default, range,
// flag and documentation. The loader, `check` and the reference are made from
// these rows.
type Key struct {
	// Name within its section; dotted for a key of an inline table
	// ("keepalive.idle").
	Name string
	// Value points to the field: *string, *bool, *int, a pointer to a type
	// with UnmarshalText, or a pointer to a slice of these.
	Value any
	// Default in the text form of the environment; lists comma-separated.
	Default string
	// Choices are the strings that are accepted; empty: any.
	Choices []string
	// Min and Max bound an int, Duration or Size, in text form; "": no bound.
	Min, Max string
	// Flag is the long flag, Short its letter; "": none.
	Flag, Short string
	// Arg names the flag's value in help texts.
	Arg string
	// Optional: that the key is set at all means something, even to "".
	Optional bool
	// Doc is for the reference, in Markdown: sentences with full stops. Its
	// first sentence also describes the flag.
	Doc string
}

// section is a table of the file: its keys are bound to one Config.
type section struct {
	name string
	doc  string
	keys []Key // of an array table: those of a blank element
	// grow, for an array table ([[name]]): appends an element, whose keys are
	// given to fill first.
	grow func(fill func([]Key))
	// each, for an array table: visits the keys of the elements there are.
	each func(visit func(i int, keys []Key))
	// initial is how many elements of an array table there are by default.
	initial int
}

func (s section) isArray() bool { return s.grow != nil }

// table is the section [name].
func table(name, doc string, keys []Key) section {
	return section{name: name, doc: doc, keys: keys}
}

// arrayTable is the section [[name]], whose elements go to dst.
// By default there are initial ones, with the defaults of their keys.
func arrayTable[T any](name, doc string, initial int, dst *[]T, keys func(*T) []Key) section {
	return section{
		name: name, doc: doc, keys: keys(new(T)), initial: initial,
		grow: func(fill func([]Key)) {
			var element T
			fill(keys(&element))
			*dst = append(*dst, element)
		},
		each: func(visit func(int, []Key)) {
			for i := range *dst {
				visit(i, keys(&(*dst)[i]))
			}
		},
	}
}

// node is a name in the tree of settings: a section, an inline table or a key.
type node struct {
	key      *Key
	array    *section
	children map[string]*node
}

// treeOf indexes sections for look-ups by path.
func treeOf(sections []section) *node {
	root := &node{}
	for _, sec := range sections {
		n := root.descend(sec.name)
		if sec.isArray() {
			n.array = &sec
			continue
		}
		n.add(sec.keys)
	}
	return root
}

// add indexes keys below n.
func (n *node) add(keys []Key) {
	for _, k := range keys {
		n.descend(k.Name).key = &k
	}
}

// descend makes the nodes of a dotted path below n.
func (n *node) descend(path string) *node {
	for name := range strings.SplitSeq(path, ".") {
		if n.children == nil {
			n.children = make(map[string]*node)
		}
		if n.children[name] == nil {
			n.children[name] = &node{}
		}
		n = n.children[name]
	}
	return n
}

// keyPath is one plain key with its full path.
type keyPath struct {
	path string
	*Key
}

// paths are the sections and settings by full name, for suggestions.
func paths(sections []section) []string {
	var out []string
	for _, sec := range sections {
		out = append(out, sec.name)
		for _, k := range sec.keys {
			out = append(out, sec.name+"."+k.Name)
		}
	}
	return out
}

// plainKeys are the keys that are not an array table's: those that the
// environment and flags can set.
func plainKeys(sections []section) []keyPath {
	var out []keyPath
	for _, sec := range sections {
		if sec.isArray() {
			continue
		}
		for _, k := range sec.keys {
			out = append(out, keyPath{sec.name + "." + k.Name, &k})
		}
	}
	return out
}
