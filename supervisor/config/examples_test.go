package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"cleversocks/examples"
)

// Every example loads as it stands, but for the users file, which is the
// test's own, and satisfies the schema that editors get.
func TestExamples(t *testing.T) {
	schema := compileSchema(t)
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("alice:$2y$10$CwTycUXWue0Thq9StjUM0uJ8D6x6zB6n2T3FjvV5cXH2mVRzJ1yGa\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := examples.Files.ReadDir(".")
	if err != nil || len(entries) < 4 {
		t.Fatal(len(entries), err)
	}
	for _, entry := range entries {
		t.Run(entry.Name(), func(t *testing.T) {
			text, err := examples.Files.ReadFile(entry.Name())
			if err != nil {
				t.Fatal(err)
			}
			text = bytes.ReplaceAll(text, []byte("/etc/cleversocks/users"), []byte(users))
			path := filepath.Join(t.TempDir(), entry.Name())
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := NewLoader(Sources{File: path}).Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(jsonOf(t, text)); err != nil {
				t.Errorf("the schema refuses it: %v", err)
			}
			for _, l := range cfg.Listeners {
				if !l.Address.IsLoopback() && !cfg.Auth.Required {
					t.Errorf("%s is open to whoever reaches it", l.Address)
				}
			}
		})
	}
}

// The schema catches what the loader would.
func TestSchemaRefuses(t *testing.T) {
	schema := compileSchema(t)
	for _, text := range []string{
		"[log]\nlevle = 'info'", "[log]\nlevel = 'loud'", "[limits]\nmax_connections = 'many'",
		"[[listener]]\nreuse_port = 0", "[listener]\naddress = '127.0.0.1:1080'", "[nothing]\n",
	} {
		if err := schema.Validate(jsonOf(t, []byte(text))); err == nil {
			t.Errorf("the schema accepts %q", text)
		}
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	var b strings.Builder
	if err := WriteSchema(&b); err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("cleversocks.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("cleversocks.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// jsonOf is a TOML document as a JSON validator takes it.
func jsonOf(t *testing.T, text []byte) any {
	t.Helper()
	var document any
	if err := toml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
