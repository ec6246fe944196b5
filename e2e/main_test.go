// Package e2e tests the built program from outside, with real clients and
// servers. All of it runs in a network namespace of its own, so that ports
// are free, nothing leaves the machine, and the end of the test run is the
// end of the namespace. It needs root and the programs that the Taskfile
// installs. Without root all of it is left out, without a program its tests.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"cleversocks/e2e/need"
)

// inNamespace marks the copy of the test binary that runs the tests.
const inNamespace = "CLEVERSOCKS_E2E_NAMESPACE"

// binary is the program under test, built with the race detector.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(asSuccessor) != "" {
		os.Exit(succeedBadly())
	}
	if slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.list=") }) { // which needs neither namespace nor program
		os.Exit(m.Run())
	}
	if os.Getenv(inNamespace) == "" {
		os.Exit(enterNamespace())
	}
	code, err := runInNamespace(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// enterNamespace runs this test binary again, in a new network namespace, and a
// mount namespace for the system's files about names.
func enterNamespace() int {
	again := exec.Command(os.Args[0], os.Args[1:]...)
	again.Env = append(os.Environ(), inNamespace+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if err := again.Run(); err != nil {
		if again.ProcessState == nil && !need.Everything() {
			fmt.Fprintln(os.Stderr, "e2e: left out: it needs root to make a network namespace:", err)
			return 0
		}
		if again.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "e2e: cannot make a network namespace (it needs root, or CAP_SYS_ADMIN):", err)
			return 1
		}
		return again.ProcessState.ExitCode()
	}
	return 0
}

func runInNamespace(m *testing.M) (int, error) {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		// An address that is the machine's and not loopback.
		{"link", "add", "e2e0", "type", "veth", "peer", "name", "e2e1"},
		{"link", "set", "e2e1", "up"},
		{"address", "add", "192.0.2.1/24", "dev", "e2e0"},
		{"address", "add", "2001:db8::1/64", "dev", "e2e0", "nodad"},
		{"link", "set", "e2e0", "up"},
		// Addresses that are here and on no interface: dante's client goes
		// around the proxy for the networks of its interfaces.
		{"route", "add", "local", "198.51.100.0/24", "dev", "lo"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	dir, err := os.MkdirTemp("", "cleversocks-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := ownNames(dir); err != nil {
		return 1, err
	}
	// Pacing congestion controls (bbr) can stall on a loaded machine's
	// loopback, where a round trip is as long as the scheduler makes it.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0); err != nil {
		return 1, err
	}
	if binary, err = need.Built(dir); err != nil {
		return 1, err
	}
	// What runs in parallel waits most of the time, for leases to end and servers to
	// fail over.
	if err := flag.Set("test.parallel", "8"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// ownNames gives the tests a hosts file and a resolv.conf of their own, so that
// none depends on what the machine's say of localhost, or of search domains.
func ownNames(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of our own: %w", err)
	}
	for path, text := range map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost origin.example\n::1 localhost ip6-localhost ip6-loopback\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\n", // nobody is there, unless a test is
	} {
		own := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(own, path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return nil
}

// program is a program that the test cannot do without.
func program(t *testing.T, name, debianPackage string) string {
	t.Helper()
	return need.Program(t, name, debianPackage)
}
