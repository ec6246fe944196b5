package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
)

//go:embed page.html
var pageTemplate string

//go:embed site.css
var style []byte

//go:embed search.js
var searchScript []byte

// contents is the page whose list of links stands beside every page.
const contents = "docs/README.md"

// site is one run.
type site struct {
	root, out string
	markdown  goldmark.Markdown
	template  *template.Template
	found     []entry
	copied    map[string]bool // files and folders that pages link to, by path
}

// entry is what the search knows of a heading and the text below it.
type entry struct {
	Page    string `json:"page"`    // the page's title
	Heading string `json:"heading"` // empty for what stands above the first one
	URL     string `json:"url"`     // from the site's root
	Text    string `json:"text"`
}

// build makes the site of the project in root, in the folder out.
func build(root, out string) error {
	s := &site{
		root: root, out: out, copied: map[string]bool{},
		markdown: goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithParserOptions(parser.WithAutoHeadingID())),
		template: template.Must(template.New("page").Parse(pageTemplate)),
	}
	pages, err := s.pages()
	if err != nil {
		return err
	}
	for _, page := range pages {
		if err := s.page(page); err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
	}
	for name := range s.copied {
		if err := s.copy(name); err != nil {
			return err
		}
	}
	index, err := json.Marshal(s.found)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"site.css": style, "search.js": searchScript, "index.js": []byte("const pages = " + string(index) + ";\n"),
	} {
		if err := s.write(name, content); err != nil {
			return err
		}
	}
	return nil
}

// pages are the Markdown files of the project's folder and of docs/, by path.
func (s *site) pages() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(s.root, "*.md"))
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(filepath.Join(s.root, "docs"), func(name string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".md") {
			found = append(found, name)
		}
		return err
	})
	for i, name := range found {
		if found[i], err = filepath.Rel(s.root, name); err != nil {
			return nil, err
		}
	}
	return found, err
}

// page makes one page of the Markdown file name.
func (s *site) page(name string) error {
	source, err := os.ReadFile(filepath.Join(s.root, name))
	if err != nil {
		return err
	}
	body, err := s.html(name, name, source, true)
	if err != nil {
		return err
	}
	list, err := os.ReadFile(filepath.Join(s.root, contents))
	if err != nil {
		return err
	}
	side, err := s.html(name, contents, list, false)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = s.template.Execute(&out, map[string]any{
		"Title": title(source), "Body": template.HTML(body), "Side": template.HTML(side),
		"Root": strings.Repeat("../", strings.Count(name, "/")),
	})
	if err != nil {
		return err
	}
	return s.write(address(name), out.Bytes())
}

// html renders the Markdown of the file named source for the page named on,
// which may lie in another folder. It notes headings for the search if index is
// set.
func (s *site) html(on, source string, markdown []byte, index bool) ([]byte, error) {
	tree := s.markdown.Parser().Parse(text.NewReader(markdown), parser.WithContext(parser.NewContext(parser.WithIDs(headings{}))))
	if index {
		s.index(on, tree, markdown)
	}
	err := ast.Walk(tree, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Link:
			n.Destination = []byte(s.target(on, source, string(n.Destination)))
		case *ast.Image:
			n.Destination = []byte(s.target(on, source, string(n.Destination)))
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = s.markdown.Renderer().Render(&out, markdown, tree)
	return out.Bytes(), err
}

// target is where a link of the file source leads on the page on.
func (s *site) target(on, source, link string) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "#") || strings.HasPrefix(link, "mailto:") {
		return link
	}
	name, anchor, _ := strings.Cut(link, "#")
	name = path.Join(path.Dir(source), name)
	if strings.HasSuffix(name, ".md") {
		name = address(name)
	} else {
		s.copied[name] = true
		if info, err := os.Stat(filepath.Join(s.root, name)); err == nil && info.IsDir() {
			name += "/index.html"
		}
	}
	if anchor != "" {
		name += "#" + anchor
	}
	return strings.Repeat("../", strings.Count(on, "/")) + name
}

// address is the page of a Markdown file: a folder's README is its index.
func address(name string) string {
	dir, file := path.Split(name)
	if file == "README.md" {
		return dir + "index.html"
	}
	return dir + strings.TrimSuffix(file, ".md") + ".html"
}

// title is the text of a page's first line.
func title(markdown []byte) string {
	line, _, _ := strings.Cut(string(markdown), "\n")
	return strings.TrimLeft(line, "# ")
}
