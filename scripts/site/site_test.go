package main

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// TestSite makes the site of this project: every link leads to a page of it, or
// to a file that is there, every anchor to a heading, and every page of docs/
// is in the contents. Links to the outside are not followed.
func TestSite(t *testing.T) {
	out := t.TempDir()
	if err := build("../..", out); err != nil {
		t.Fatal(err)
	}
	links, ids := map[string][]string{}, map[string]map[string]bool{}
	err := filepath.WalkDir(out, func(name string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".html") {
			return err
		}
		page, err := filepath.Rel(out, name)
		if err != nil {
			return err
		}
		links[page], ids[page] = parse(t, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for page, targets := range links {
		for _, target := range targets {
			check(t, out, page, target, ids)
		}
	}
	inContents := map[string]bool{}
	for _, target := range links["docs/index.html"] {
		inContents[path.Join("docs", target)] = true
	}
	for page := range links {
		if strings.HasPrefix(page, "docs/") && !inContents[page] && page != "docs/index.html" {
			t.Errorf("%s is not in docs/README.md", page)
		}
	}
}

func check(t *testing.T, out, page, target string, ids map[string]map[string]bool) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Errorf("%s: %v", page, err)
		return
	}
	if u.IsAbs() {
		return
	}
	to := page
	if u.Path != "" {
		to = path.Join(path.Dir(page), u.Path)
	}
	if _, err := os.Stat(filepath.Join(out, to)); err != nil {
		t.Errorf("%s: a link to %s, which is not there", page, target)
	}
	if u.Fragment != "" && !ids[to][u.Fragment] {
		t.Errorf("%s: a link to %s, and there is no such heading", page, target)
	}
}

// parse gives a page's links and the ids of its elements.
func parse(t *testing.T, name string) (links []string, ids map[string]bool) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tree, err := html.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	ids = map[string]bool{}
	for n := range tree.Descendants() {
		for _, a := range n.Attr {
			switch a.Key {
			case "id":
				ids[a.Val] = true
			case "href", "src":
				links = append(links, a.Val)
			}
		}
	}
	return links, ids
}

// TestSearchIndex finds a section by a word of its text.
func TestSearchIndex(t *testing.T) {
	out := t.TempDir()
	if err := build("../..", out); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(out, "index.js"))
	if err != nil || !strings.Contains(string(index), `"url":"docs/access.html#rules"`) {
		t.Errorf("the section about rules is not in the index of %d bytes: %v", len(index), err)
	}
}
