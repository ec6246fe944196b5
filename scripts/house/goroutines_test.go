package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// notTheProduct are folders whose goroutines nobody needs to contain, and the
// one package that may start them.
var notTheProduct = []string{"e2e", "scripts", "conn/task"}

// TestGoroutinesHaveOwners: a panic on a goroutine that nobody contains ends the
// daemon, with everybody's connections. Goroutines are started by conn/task or
// by the supervisor tree; goroutines.txt names the exceptions.
func TestGoroutinesHaveOwners(t *testing.T) {
	allowed := readAllowed(t)
	used := make(map[string]bool)
	for dir, files := range productFiles(t, notTheProduct...) {
		groups := waitGroups(files)
		for path, file := range files {
			for _, decl := range file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if !ok || !starts(f, groups) {
					continue
				}
				key := path + " " + nameOf(f)
				if used[key] = true; !allowed[key] {
					t.Errorf("%s: %s starts a goroutine that nobody contains: use task.Scope (%s/conn/task), or say why not in scripts/house/goroutines.txt", path, nameOf(f), filepath.Base(dir))
				}
			}
		}
	}
	for key := range allowed {
		if !used[key] {
			t.Errorf("goroutines.txt: %s starts none any more: take the line out", key)
		}
	}
}

func readAllowed(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("goroutines.txt")
	if err != nil {
		t.Fatal(err)
	}
	allowed := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 4 {
			t.Fatalf("goroutines.txt: %q has no reason", line)
		}
		allowed[fields[0]+" "+fields[1]] = true
	}
	return allowed
}

// productFiles are the parsed sources by folder and path, without some folders.
func productFiles(t *testing.T, leftOut ...string) map[string]map[string]*ast.File {
	t.Helper()
	all := make(map[string]map[string]*ast.File)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if entry.IsDir() && (slices.Contains(leftOut, name) || name != "." && strings.HasPrefix(entry.Name(), ".")) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.Dir(name)
		if all[dir] == nil {
			all[dir] = make(map[string]*ast.File)
		}
		all[dir][name] = file
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d folders", len(all))
	}
	return all
}

// waitGroups are the names of a package's fields and variables that are a
// sync.WaitGroup or an errgroup.Group, whose Go contains nothing.
func waitGroups(files map[string]*ast.File) map[string]bool {
	names := make(map[string]bool)
	note := func(idents []*ast.Ident, typ ast.Expr) {
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		sel, ok := typ.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"sync.WaitGroup", "errgroup.Group"}, fmt.Sprintf("%s.%s", sel.X, sel.Sel)) {
			return
		}
		for _, id := range idents {
			names[id.Name] = true
		}
		if len(idents) == 0 {
			names[sel.Sel.Name] = true // embedded
		}
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				note(n.Names, n.Type)
			case *ast.ValueSpec:
				note(n.Names, n.Type)
			}
			return true
		})
	}
	return names
}

// starts says whether a function starts a goroutine by itself.
func starts(f *ast.FuncDecl, groups map[string]bool) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Go" && sel.Sel.Name != "TryGo" {
				return true
			}
			switch x := sel.X.(type) {
			case *ast.Ident:
				found = found || groups[x.Name]
			case *ast.SelectorExpr:
				found = found || groups[x.Sel.Name]
			}
		}
		return true
	})
	return found
}

// nameOf is a function's name with its receiver's type.
func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	return fmt.Sprintf("%s.%s", typ, f.Name.Name)
}

// The check sees what it must, and no more.
func TestTheCheckItself(t *testing.T) {
	const source = `package p
import "sync"
type a struct { wg sync.WaitGroup; *sync.Mutex }
func (x *a) one() { go x.two() }
func (x *a) two() { x.wg.Go(func() {}) }
func three() { var g *errgroup.Group; if true { g.Go(nil) } }
func four() { func() { go func() {}() }() }
func (x a) fine() { scope.Go(nil); x.wg.Add(1) }
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	groups := waitGroups(map[string]*ast.File{"p.go": file})
	found := make(map[string]bool)
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && starts(f, groups) {
			found[nameOf(f)] = true
		}
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, []string{"a.one", "a.two", "four", "three"}) {
		t.Errorf("found %v", got)
	}
}
