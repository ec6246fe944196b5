// Package need says what a test cannot do without: root, or a program that is
// not everybody's. Where that is missing the test is left out with the reason,
// except in CI, which runs everything.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Everything says that nothing may be left out: scripts/gotest sets it.
func Everything() bool { return os.Getenv("CLEVERSOCKS_TEST_EVERYTHING") != "" }

// Root leaves the test out when it does not run as root.
func Root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		leaveOut(t, "it needs root")
	}
}

// Program finds a program, or leaves the test out. Daemons live where an
// ordinary user's PATH may not look.
func Program(t *testing.T, name, debianPackage string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	leaveOut(t, name+" is missing: apt-get install "+debianPackage)
	return ""
}

func leaveOut(t *testing.T, why string) {
	t.Helper()
	if Everything() {
		t.Fatal(why)
	}
	t.Skip("left out: " + why)
}

// Built is the program with the race detector: that which CLEVERSOCKS_TEST_PROGRAM
// names, which CI builds once for all, or one that is built into dir.
func Built(dir string) (path string, err error) {
	return built("CLEVERSOCKS_TEST_PROGRAM", filepath.Join(dir, "cleversocks"), "-race")
}

// Plain is the program without the race detector, which would be measured, or take a
// place. CI names it by CLEVERSOCKS_TEST_PLAIN.
func Plain(t *testing.T) string {
	t.Helper()
	path, err := built("CLEVERSOCKS_TEST_PLAIN", filepath.Join(t.TempDir(), "cleversocks"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func built(variable, into string, flags ...string) (path string, err error) {
	if path := os.Getenv(variable); path != "" {
		return path, nil
	}
	args := append(append([]string{"build"}, flags...), "-o", into, "cleversocks/cmd/cleversocks")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return into, nil
}
