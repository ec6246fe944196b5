package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"cleversocks/conn/task"
)

// placed are the functions that are told where a panic is contained, and at
// which of their arguments.
var placed = map[string]int{
	"task.New": 2, "Contain": 1, "Panicked": 1, "panicked": 1, "Panics.Of": 0, "background": 2, "await": 2,
}

// TestPanicsHavePlaces: a panic in a look-up once counted as "other", since
// nobody had added the scope's name to the label's values.
func TestPanicsHavePlaces(t *testing.T) {
	known, used := task.Places(), make(map[string]bool)
	for _, files := range productFiles(t, notTheProduct...) {
		for path, file := range files {
			for _, where := range placesIn(file) {
				if used[where] = true; !slices.Contains(known, where) {
					t.Errorf("%s: panics in %q count as \"other\": add it to places in conn/task/places.go", path, where)
				}
			}
		}
	}
	for _, where := range known {
		if !used[where] {
			t.Errorf("conn/task/places.go: nothing contains panics in %q any more", where)
		}
	}
}

// placesIn are the names of places that a file's calls are given.
func placesIn(file *ast.File) (places []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		at, ok := placed[called(call.Fun)]
		if !ok || at >= len(call.Args) {
			return true
		}
		if literal, ok := call.Args[at].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			where, _ := strconv.Unquote(literal.Value)
			places = append(places, where)
		}
		return true
	})
	return places
}

// called is a function's name; with its package, or with what it is a method
// of, where the name alone says too little.
func called(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		name := f.Sel.Name
		if name != "New" && name != "Of" {
			return name
		}
		switch x := f.X.(type) {
		case *ast.Ident:
			return fmt.Sprintf("%s.%s", x.Name, name)
		case *ast.SelectorExpr:
			return fmt.Sprintf("%s.%s", x.Sel.Name, name)
		}
	}
	return ""
}
