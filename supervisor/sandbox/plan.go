// Package sandbox has the process give up what it does not need: files and TCP
// ports by Landlock (landlock(7)), system calls by seccomp, new privileges, and
// core dumps, in which secrets would be. What was given up does not come back,
// and holds for whatever this process starts.
//
//	state, err := sandbox.Enter(sandbox.Options{Landlock: "auto", Seccomp: "auto", Plan: plan})
package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Plan is what the process keeps. All rules are for directories and what is
// below them: the rule for a file would be lost with that file, when another one
// takes its place by a rename.
type Plan struct {
	Read    []string `json:"read"`
	Write   []string `json:"write"`   // and read, make and remove files there
	Sockets []string `json:"sockets"` // where unix sockets are made and removed
	Execute []string `json:"execute"` // and read; empty: no program is started any more
	Ports   []Ports  `json:"ports"`   // of TCP that may be bound, besides port 0
}

// Ports is a range, both ends included.
type Ports struct {
	Low  uint16 `json:"low"`
	High uint16 `json:"high"`
}

// String is "1080" or "40000-40999".
func (p Ports) String() string {
	if p.Low == p.High {
		return fmt.Sprint(p.Low)
	}
	return fmt.Sprintf("%d-%d", p.Low, p.High)
}

// maxLinks bounds how many symbolic links are followed, as the kernel does.
const maxLinks = 40

// Directories are those that a file is read by: its own, and where it is a
// symbolic link that of what it leads to, step by step. Landlock looks at where a
// path ends up. A certificate of certbot's is such a link, and so is resolv.conf
// as systemd-resolved has it.
func Directories(path string) []string {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var all []string
	for range maxLinks {
		all = append(all, filepath.Dir(path))
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return all
}

// resolved is the plan with every directory by its real name, once, without
// those that do not exist. What turns out to be a file has its directory.
func (p Plan) resolved() Plan {
	return Plan{
		Read: real(p.Read), Write: real(p.Write), Sockets: real(p.Sockets), Execute: real(p.Execute),
		Ports: slices.Clone(p.Ports),
	}
}

func real(paths []string) []string {
	all := []string{}
	for _, path := range paths {
		at, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		if info, err := os.Stat(at); err == nil && !info.IsDir() {
			at = filepath.Dir(at)
		}
		all = append(all, at)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Beyond names what another plan has and this one lacks: what a process that
// keeps to this one cannot do.
func (p Plan) Beyond(other Plan) []string {
	have, want := p.resolved(), other.resolved()
	var lacks []string
	look := func(verb string, want []string, have ...string) {
		for _, path := range want {
			if !below(path, have) {
				lacks = append(lacks, verb+" "+path)
			}
		}
	}
	look("reading", want.Read, slices.Concat(have.Read, have.Write, have.Execute)...)
	look("writing", want.Write, have.Write...)
	look("sockets in", want.Sockets, slices.Concat(have.Sockets, have.Write)...)
	look("programs in", want.Execute, have.Execute...)
	for _, ports := range want.Ports {
		if !covered(ports, have.Ports) {
			lacks = append(lacks, "TCP port "+ports.String())
		}
	}
	return lacks
}

// below reports whether a directory is one of others, or in one of them.
func below(path string, others []string) bool {
	return slices.ContainsFunc(others, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	})
}

func covered(want Ports, have []Ports) bool {
	for port := int(want.Low); port <= int(want.High); port++ {
		if port != 0 && !slices.ContainsFunc(have, func(h Ports) bool { return int(h.Low) <= port && port <= int(h.High) }) {
			return false
		}
	}
	return true
}

// text tells the plan in a line.
func (p Plan) text(ports bool) string {
	p = p.resolved()
	var bound []string
	if ports {
		bound = append(bound, "0")
	}
	for _, one := range p.Ports {
		bound = append(bound, one.String())
	}
	var parts []string
	for _, part := range []struct {
		verb  string
		what  []string
		joint string
	}{
		{"reads", p.Read, " "}, {"writes", p.Write, " "}, {"makes sockets in", p.Sockets, " "}, {"starts programs of", p.Execute, " "}, {"binds TCP ports", bound, " "},
	} {
		if len(part.what) > 0 {
			parts = append(parts, part.verb+" "+strings.Join(part.what, part.joint))
		}
	}
	return strings.Join(parts, ", ")
}
