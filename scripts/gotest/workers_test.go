package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
)

// Workers run every test once, and a failed one fails the run, as with one process.
func TestWorkers(t *testing.T) {
	t.Chdir(t.TempDir())
	var text strings.Builder
	text.WriteString("package p\n\nimport \"testing\"\n\n")
	for _, name := range "ABCDEFGHIJKLMNOPQRSTUVWXY" {
		text.WriteString("func Test" + string(name) + "(t *testing.T) {}\n")
	}
	text.WriteString("func TestZ(t *testing.T) { t.Error(\"no\") }\n")
	for name, content := range map[string]string{"go.mod": "module p\n\ngo 1.26\n", "p_test.go": text.String()} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(".task", 0o700); err != nil {
		t.Fatal(err)
	}
	n, args := workerCount([]string{"-timeout=1m", "-workers=3", "."})
	var out bytes.Buffer
	r := newResults(io.Discard, &out)
	if err := r.workers(n, args); n != 3 || err == nil {
		t.Errorf("%d workers, %v", n, err)
	}
	if err := r.report(); err == nil || err.Error() != "25 passed, 1 failed, 0 skipped themselves" || !strings.HasSuffix(out.String(), "--- FAIL: p TestZ\n    p_test.go:30: no\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
