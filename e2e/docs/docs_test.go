// Package docs types what the documentation says to type. Every configuration in
// README.md and docs/ is checked and started, every command is run, in the order
// of the page, as a reader would. Each page has a world of its own: network,
// processes and file system, with a web server, a provider's proxies, names and
// users. It needs root, and the programs that the Taskfile installs.
package docs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// patience bounds one page. It is for machines with both cores busy.
const patience = 8 * time.Minute

// world is where the blocks run: folders made once, from which each block's
// own file system is put together.
type world struct {
	dir  string // the files of the world
	root string // the project's folder
}

func TestMain(m *testing.M) {
	if os.Getenv(webServer) != "" {
		serveWeb()
		return
	}
	os.Exit(m.Run())
}

// TestDocs runs what stands in each page.
func TestDocs(t *testing.T) {
	need.Root(t)
	w := makeWorld(t)
	for _, page := range pages(t, w.root) {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			var script strings.Builder
			script.WriteString(before[page])
			for _, b := range blocks(t, w.root, page) {
				fmt.Fprintf(&script, "echo '=== %s:%d'\n", b.page, b.line)
				script.WriteString(scriptOf(t, b))
			}
			w.run(t, script.String())
		})
	}
}

// run runs a script in a new world, and fails the test with all that it printed.
// It returns the folder that has what became of the world's /etc and /tmp.
func (w *world) run(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "page.sh")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", filepath.Join(w.dir, "world.sh"), path)
	cmd.Dir = w.root
	cmd.Env = append(os.Environ(), "WORLD="+w.dir, "SCRATCH="+dir, "TERM=dumb")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// The end of its first process ends all of the world's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s\n--- the script:\n%s", err, tail(out.String(), 60), script)
	}
	return dir
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}
