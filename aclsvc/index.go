package aclsvc

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// index finds the rules that name a destination without walking all rules.
// Lists of rule numbers ascend, so the first that matches ends a scan.
type index struct {
	table bart.Table[int32] // longest prefix -> node
	nodes []addrNode
	exact map[string][]int32
	below map[string][]int32 // "*.suffix", without the "*."
	depth int                // most labels among the keys of below
	any   []int32            // rules without a destination
	// addrAllows are the allowing rules that name addresses: as long as one
	// of them concerns a request, a name alone is not certainly denied.
	addrAllows []int32
}

// addrNode is one prefix. What holds for a prefix holds for those inside it,
// so a look-up goes from the longest to its parents: the memory is linear in
// the rules, where inherited lists would not be.
type addrNode struct {
	rules  []int32
	parent int32 // -1: none
	prefix netip.Prefix
}

// builder fills an index.
type builder struct {
	idx   *index
	open  func(string) (io.ReadCloser, error)
	node  map[netip.Prefix]int32
	files map[string][]entry // read once, so that two rules see one version
	total int
	one   []int32 // the list of the current rule alone, shared by its entries
}

func newBuilder(idx *index, open func(string) (io.ReadCloser, error)) *builder {
	if open == nil {
		open = openList
	}
	idx.exact, idx.below = map[string][]int32{}, map[string][]int32{}
	return &builder{idx: idx, open: open, node: map[netip.Prefix]int32{}, files: map[string][]entry{}}
}

// destinations adds a rule's "to".
func (b *builder) destinations(n int32, allow bool, to []string) (wrong ElementErrors) {
	b.one = []int32{n}
	if len(to) == 0 {
		b.idx.any = append(b.idx.any, n)
		return nil
	}
	hasAddr := false
	for i, s := range to {
		entries, err := b.entries(s)
		if err != nil {
			wrong = append(wrong, ElementError{"to", i, err})
			continue
		}
		for _, e := range entries {
			if err := b.add(n, e); err != nil {
				return append(wrong, ElementError{"to", i, err}) // there is no room for more
			}
			hasAddr = hasAddr || len(e.prefixes) > 0
		}
	}
	if allow && hasAddr {
		b.idx.addrAllows = append(b.idx.addrAllows, n)
	}
	return wrong
}

// entries are the one of a plain setting or those of the file it names.
func (b *builder) entries(s string) ([]entry, error) {
	path, ok := isFile(s)
	if !ok {
		e, err := parseEntry(s)
		return []entry{e}, err
	}
	if entries, ok := b.files[path]; ok {
		return entries, nil
	}
	f, err := b.open(path)
	if err != nil {
		return nil, err
	}
	entries, err := readList(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	b.files[path] = entries
	return entries, nil
}

func (b *builder) add(n int32, e entry) error {
	if b.total += len(e.prefixes) + 1; b.total > maxPrefixes*2 {
		return fmt.Errorf("more than %d destinations in all", maxPrefixes*2)
	}
	switch {
	case e.suffix:
		b.idx.below[e.name] = b.append(b.idx.below[e.name], n)
		b.idx.depth = max(b.idx.depth, 1+strings.Count(e.name, "."))
	case e.name != "":
		b.idx.exact[e.name] = b.append(b.idx.exact[e.name], n)
	}
	for _, p := range e.prefixes {
		i, ok := b.node[p]
		if !ok {
			i = int32(len(b.idx.nodes))
			b.idx.nodes = append(b.idx.nodes, addrNode{parent: -1, prefix: p})
			b.idx.table.Insert(p, i)
			b.node[p] = i
		}
		b.idx.nodes[i].rules = b.append(b.idx.nodes[i].rules, n)
	}
	return nil
}

// append adds n once. Most lists hold one rule: those share one array, whose
// capacity of one makes a longer list a copy.
func (b *builder) append(list []int32, n int32) []int32 {
	switch {
	case len(list) == 0:
		return b.one[:1:1]
	case list[len(list)-1] == n:
		return list
	}
	return append(list, n)
}

// finish links every prefix to the next wider one.
func (b *builder) finish() {
	for i := range b.idx.nodes {
		n := &b.idx.nodes[i]
		if n.prefix.Bits() == 0 {
			continue
		}
		wider := netip.PrefixFrom(n.prefix.Addr(), n.prefix.Bits()-1).Masked()
		if parent, ok := b.idx.table.LookupPrefix(wider); ok {
			n.parent = parent
		}
	}
}
