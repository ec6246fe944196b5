package house

import (
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// module is the path that our own imports begin with.
const module = "cleversocks"

// free are the folders that may import anything of ours: what puts the parts
// together, and what is not the product.
var free = []string{"supervisor", "supervisor/config", "supervisor/learn", "supervisor/trial", "e2e", "scripts"}

// graphRule is one rule of depguard: which files it is about, and what of ours
// they may import.
type graphRule struct {
	name  string
	files []string // patterns
	allow []string // what an import's path begins with; with a $, all of it
}

// TestImportGraph: a folder that no rule of depguard is about may import
// whatever it likes, and nobody sees it; a rule about a folder that is gone
// protects nothing.
func TestImportGraph(t *testing.T) {
	rules := graphRules(t)
	folders := slices.Sorted(maps.Keys(productFiles(t, "e2e", "scripts")))
	used := make(map[string]bool)
	for _, folder := range folders {
		var about []string
		for _, r := range rules {
			for _, pattern := range r.files {
				if isAbout(pattern, folder) {
					used[pattern] = true
					about = append(about, r.name)
				}
			}
		}
		if !isFree(folder) && len(about) != 1 {
			t.Errorf("%s: %d rules of depguard are about it, want one: %v", folder, len(about), about)
		}
	}
	for _, r := range rules {
		for _, pattern := range r.files {
			if !used[pattern] {
				t.Errorf(".golangci.yml: %s: no folder fits %q any more", r.name, pattern)
			}
		}
		for _, allowed := range r.allow {
			if !slices.ContainsFunc(folders, func(f string) bool { return fits(allowed, module+"/"+f) }) {
				t.Errorf(".golangci.yml: %s allows %q, which is no folder", r.name, allowed)
			}
		}
	}
}

// TestImportGraphIsNoWider: what a rule allows and no file uses is an arrow that
// nobody decided on.
func TestImportGraphIsNoWider(t *testing.T) {
	imports := make(map[string][]string) // by folder
	for folder, files := range productFiles(t, "e2e", "scripts") {
		for _, file := range files {
			for _, spec := range file.Imports {
				imports[folder] = append(imports[folder], strings.Trim(spec.Path.Value, `"`))
			}
		}
	}
	for _, r := range graphRules(t) {
		for _, allowed := range r.allow {
			used := false
			for folder, paths := range imports {
				if slices.ContainsFunc(r.files, func(pattern string) bool { return isAbout(pattern, folder) }) {
					used = used || slices.ContainsFunc(paths, func(p string) bool { return fits(allowed, p) })
				}
			}
			if !used {
				t.Errorf(".golangci.yml: %s allows %q, which nothing imports: take it out", r.name, allowed)
			}
		}
	}
}

// TestRooms holds the tree of ARCHITECTURE.md to the folders that there are.
func TestRooms(t *testing.T) {
	drawn := rooms(t)
	var folders []string
	for folder := range productFiles(t, "e2e", "scripts") {
		folders = append(folders, folder)
	}
	for _, folder := range folders {
		if !drawn[folder] && !drawn[path.Dir(folder)+"/*"] {
			t.Errorf("%s is not in the rooms of ARCHITECTURE.md", folder)
		}
	}
	for room := range drawn {
		if strings.HasSuffix(room, "/*") {
			continue
		}
		if info, err := os.Stat(filepath.Join(root, room)); err != nil || !info.IsDir() {
			t.Errorf("ARCHITECTURE.md: %s is no folder any more", room)
		}
	}
}

// rooms are the folders that the tree of ARCHITECTURE.md names. Those below one
// whose line names them in its text ("codecs in socks5/ socks4/") are drawn by it.
func rooms(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, tree, _ := strings.Cut(string(text), "## Rooms\n\n```\n")
	tree, _, found := strings.Cut(tree, "```")
	if !found {
		t.Fatal("ARCHITECTURE.md has no rooms")
	}
	drawn := make(map[string]bool)
	inText := regexp.MustCompile(`\b([a-z0-9]+)/(?:\s|$|,|;|\.)`)
	above, last := "", ""
	for line := range strings.Lines(tree) {
		name, said := "", line
		switch {
		case !strings.HasPrefix(line, " "):
			name, said, _ = strings.Cut(line, " ")
			above = strings.TrimSpace(name)
		case !strings.HasPrefix(line, "   "):
			name, said, _ = strings.Cut(strings.TrimSpace(line), " ")
			name = path.Join(above, name)
		}
		if name != "" {
			last = strings.TrimSuffix(strings.TrimSpace(name), "/")
			drawn[last] = true
		}
		for _, m := range inText.FindAllStringSubmatch(said, -1) {
			drawn[path.Join(last, m[1])] = true
		}
	}
	return drawn
}

// graphRules reads the rules of depguard, whose lists stand on a line each or
// with an element a line.
func graphRules(t *testing.T) (rules []graphRule) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, ".golangci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n    depguard:\n      rules:\n")
	name := regexp.MustCompile(`^        ([a-z0-9-]+):`)
	item := regexp.MustCompile(`[^\s,\[\]"]+`)
	var list *[]string // that lines with a dash belong to
	for line := range strings.Lines(section) {
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "        ") {
			break
		}
		if m := name.FindStringSubmatch(line); m != nil {
			rules = append(rules, graphRule{name: m[1]})
			list = nil
			continue
		}
		key, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case key == "files":
			list = &rules[len(rules)-1].files
		case key == "allow":
			list = &rules[len(rules)-1].allow
		case list != nil && strings.HasPrefix(key, "- "):
			rest = key[2:]
		default:
			list = nil
		}
		if list == nil {
			continue
		}
		for _, s := range item.FindAllString(rest, -1) {
			if s != "!$test" {
				*list = append(*list, s)
			}
		}
	}
	if len(rules) < 10 {
		t.Fatalf("only %d rules of depguard", len(rules))
	}
	return rules
}

// isAbout reports whether a pattern of files, such as "**/conn/wire/*/*.go", is
// about a folder's.
func isAbout(pattern, folder string) bool {
	ok, _ := path.Match(strings.TrimPrefix(path.Dir(pattern), "**/"), folder)
	return ok
}

func isFree(folder string) bool { return slices.Contains(free, folder) || folder == "examples" }

// fits reports whether an import's path is one of those that a rule allows.
func fits(allowed, importPath string) bool {
	if whole, ok := strings.CutSuffix(allowed, "$"); ok {
		return importPath == whole
	}
	return strings.HasPrefix(importPath, allowed)
}

// The reader of the lint's settings sees both ways to write a list.
func TestGraphItself(t *testing.T) {
	for _, r := range graphRules(t) {
		if len(r.files) == 0 {
			t.Errorf("%s is about no files", r.name)
		}
		if r.name == "conn" && (len(r.allow) < 5 || !slices.Contains(r.allow, "cleversocks/conn/")) {
			t.Errorf("conn allows %v", r.allow)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", `package p; import "cleversocks/conn"`, parser.ImportsOnly)
	if err != nil || len(file.Imports) != 1 {
		t.Fatal(err)
	}
}
