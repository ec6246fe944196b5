package main

import (
	"fmt"
	"html"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/yuin/goldmark/ast"
)

// headings gives headings the anchors that GitHub gives them, by which the pages
// link to each other.
type headings map[string]int

// Generate is the anchor of a heading: its letters and digits, with hyphens for
// blanks. A second heading of the same text has a number behind it.
func (h headings) Generate(value []byte, _ ast.NodeKind) []byte {
	anchor := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(string(value)))
	n := h[anchor]
	h[anchor]++
	if n > 0 {
		anchor = fmt.Sprintf("%s-%d", anchor, n)
	}
	return []byte(anchor)
}

// Put notes an anchor that the text gives itself.
func (h headings) Put(value []byte) { h[string(value)]++ }

// index notes the headings of a page, each with the text that follows it.
func (s *site) index(on string, tree ast.Node, markdown []byte) {
	page := entry{Page: title(markdown), URL: address(on)}
	var words strings.Builder
	flush := func() {
		page.Text = strings.Join(strings.Fields(words.String()), " ")
		s.found = append(s.found, page)
		words.Reset()
	}
	for n := tree.FirstChild(); n != nil; n = n.NextSibling() {
		if h, ok := n.(*ast.Heading); ok && h.Level > 1 {
			flush()
			id, _ := h.AttributeString("id")
			page.Heading = plain(h, markdown)
			page.URL = fmt.Sprintf("%s#%s", address(on), id)
			continue
		}
		words.WriteString(plain(n, markdown) + " ")
	}
	flush()
}

// plain is the text of a node without its marks.
func plain(n ast.Node, markdown []byte) string {
	var out strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the function below returns no error
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Text:
			out.Write(n.Segment.Value(markdown))
			out.WriteByte(' ')
		case *ast.FencedCodeBlock:
			for i := range n.Lines().Len() {
				line := n.Lines().At(i)
				out.Write(line.Value(markdown))
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.TrimSpace(out.String())
}

// copy brings a file that pages link to into the site, or a folder's files with
// a list of them.
func (s *site) copy(name string) error {
	source := filepath.Join(s.root, name)
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		return s.write(name, content)
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	var list strings.Builder
	fmt.Fprintf(&list, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>%s</title><ul>\n", html.EscapeString(name))
	for _, e := range entries {
		if err := s.copy(path.Join(name, e.Name())); err != nil {
			return err
		}
		link := e.Name()
		if e.IsDir() {
			link += "/index.html"
		}
		fmt.Fprintf(&list, "<li><a href=\"%s\">%s</a></li>\n", html.EscapeString(link), html.EscapeString(e.Name()))
	}
	list.WriteString("</ul></html>\n")
	return s.write(path.Join(name, "index.html"), []byte(list.String()))
}

func (s *site) write(name string, content []byte) error {
	to := filepath.Join(s.out, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}
