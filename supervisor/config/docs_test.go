package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecipes loads every configuration that the documents show.
func TestRecipes(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"members.txt": "socks5://user:secret@192.0.2.1\n", "denied.txt": "192.0.2.0/24\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"access.md", "protocols.md", "upstreams.md", "resolver.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		recipes := strings.Split(string(text), "```toml\n")[1:]
		if len(recipes) == 0 {
			t.Errorf("%s has no recipe", name)
		}
		for i, recipe := range recipes {
			recipe, _, _ = strings.Cut(recipe, "```")
			recipe = strings.ReplaceAll(recipe, "file:/etc/cleversocks/", "file:"+dir+"/")
			if _, err := load(t, recipe, nil, nil); err != nil {
				t.Errorf("%s, recipe %d: %v\n%s", name, i+1, err, recipe)
			}
		}
	}
}
