package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// probe is what TestMain tries in a process of its own: a sandbox cannot be left.
type probe struct {
	Options Options
	Version int      // of Landlock
	Read    []string // files
	Write   []string // files to make
	Bind    []string // addresses
	Run     string   // a program
	Rename  [2]string
}

// found is how that went: nil is "".
type found struct {
	State               State
	Enter               string
	Read, Write, Bind   []string
	Run, Rename         string
	Personality, Keyctl string
	Core                uint64
	Filter              string
	Threads             int // whose sandbox does not hold
}

const probeVariable = "SANDBOX_PROBE"

// TestMain is the process under test, if it is one.
func TestMain(m *testing.M) {
	text := os.Getenv(probeVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var p probe
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		panic(err)
	}
	// A thread that was there before, and must be in it too.
	before := make(chan func() error)
	answer := make(chan error)
	go func() {
		runtime.LockOSThread()
		for f := range before {
			answer <- f()
		}
	}()
	before <- func() error { return nil }
	<-answer
	out := p.try(func(f func() error) error { before <- f; return <-answer })
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func (p probe) try(elsewhere func(func() error) error) found {
	word := func(err error) string {
		switch {
		case err == nil:
			return ""
		case errors.Is(err, unix.EACCES):
			return "EACCES"
		case errors.Is(err, unix.EPERM):
			return "EPERM"
		}
		return err.Error()
	}
	p.Options.version = p.Version
	state, err := Enter(p.Options)
	f := found{State: state, Enter: word(err)}
	for _, path := range p.Read {
		err := elsewhere(func() error { _, err := os.ReadFile(path); return err })
		f.Read = append(f.Read, word(err))
	}
	for _, path := range p.Write {
		f.Write = append(f.Write, word(os.WriteFile(path, nil, 0o600)))
	}
	for _, address := range p.Bind {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(context.Background(), "tcp4", address)
		if err == nil {
			l.Close()
		}
		f.Bind = append(f.Bind, word(err))
	}
	if p.Run != "" {
		f.Run = word(exec.Command(p.Run).Run())
	}
	if p.Rename[0] != "" {
		f.Rename = word(os.Rename(p.Rename[0], p.Rename[1]))
		if _, err := os.ReadFile(p.Rename[1]); err != nil {
			f.Rename = word(err)
		}
	}
	_, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0) // asks, and changes nothing
	f.Personality = word(errnoOf(errno))
	f.Keyctl = word(elsewhere(func() error {
		_, _, errno := unix.Syscall(unix.SYS_KEYCTL, 0, 0, 0)
		return errnoOf(errno)
	}))
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	filter, _ := os.ReadFile("/proc/self/coredump_filter")
	f.Core, f.Filter = limit.Cur, strings.TrimSpace(string(filter))
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, task := range tasks {
		if status, err := os.ReadFile(task); err == nil && !strings.Contains(string(status), "NoNewPrivs:\t1") {
			f.Threads++
		}
	}
	return f
}

func errnoOf(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func (p probe) run(t *testing.T) found {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), probeVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var f found
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return f
}

// The process reads, writes and binds what its plan has, and nothing else, from
// threads of before and after; a file in a directory of the plan that another
// one has replaced is read.
func TestHolds(t *testing.T) {
	if landlockVersion() < portsSince {
		t.Skipf("the kernel has version %d of Landlock, and this needs %d", landlockVersion(), portsSince)
	}
	root := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	in, out := write("in/file"), write("out/file")
	state, next := write("state/old"), write("state/new")
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	mine := free.Addr().String()
	free.Close()
	f := probe{
		Options: Options{Landlock: On, Seccomp: Off, Plan: Plan{
			Read: []string{filepath.Dir(in), "/proc"}, Write: []string{filepath.Dir(state)}, Ports: []Ports{{port, port}},
		}},
		Read: []string{in, out, "/etc/passwd", os.DevNull}, Write: []string{in, out, filepath.Join(root, "state/made")},
		Bind: []string{mine, "127.0.0.1:0", "127.0.0.1:9"}, Run: "/bin/true", Rename: [2]string{next, state},
	}.run(t)
	if f.Enter != "" || !f.State.Ports || f.State.Seccomp {
		t.Fatalf("%+v", f)
	}
	for what, got := range map[string][2]string{
		"reads":  {strings.Join(f.Read, ","), ",EACCES,EACCES,"},
		"writes": {strings.Join(f.Write, ","), "EACCES,EACCES,"},
		"binds":  {strings.Join(f.Bind, ","), ",,EACCES"},
		"runs":   {f.Run, "EACCES"},
		"rename": {f.Rename, ""},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %q, want %q", what, got[0], got[1])
		}
	}
	if f.Threads != 0 {
		t.Errorf("%d threads may still get new privileges", f.Threads)
	}
}

// Older kernels hold what they can, and refuse nothing that the daemon needs: it
// reads, makes files, and replaces one beside it by a rename. One without Landlock
// holds nothing by default, and is an error where it has to.
func TestOlderKernels(t *testing.T) {
	if landlockVersion() < knownVersion {
		t.Skipf("the kernel has version %d of Landlock, and this needs %d", landlockVersion(), knownVersion)
	}
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	old, next := filepath.Join(dir, "old"), filepath.Join(dir, "next")
	for _, path := range []string{old, out} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(version int, mode Mode) found {
		if err := os.WriteFile(next, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return probe{
			Options: Options{Landlock: mode, Seccomp: Auto, Plan: Plan{Read: []string{"/proc"}, Write: []string{dir}}}, Version: version,
			Read: []string{old, out}, Write: []string{filepath.Join(dir, "made")}, Bind: []string{"127.0.0.1:0"}, Rename: [2]string{next, old},
		}.run(t)
	}
	for version := 1; version <= knownVersion; version++ {
		f := ask(version, On)
		if f.Enter != "" || f.State.Landlock != version || f.State.Ports != (version >= portsSince) ||
			strings.Join(f.Read, ",") != ",EACCES" || f.Write[0] != "" || f.Bind[0] != "" || f.Rename != "" || f.Threads != 0 {
			t.Errorf("version %d: %+v", version, f)
		}
	}
	if f := ask(noLandlock, Auto); f.Enter != "" || f.State.Landlock != 0 || !f.State.Seccomp || strings.Join(f.Read, ",") != "," {
		t.Errorf("without it: %+v", f)
	}
	if f := ask(noLandlock, On); !strings.Contains(f.Enter, "landlock: this system does not have it") {
		t.Errorf("without it, where it has to be: %+v", f)
	}
}

// Calls that a proxy never makes are denied on all threads, those that start
// programs only where the plan has none; memory is in no core dump.
func TestCalls(t *testing.T) {
	if !hasSeccomp() {
		t.Skip("the kernel has no seccomp, or nobody has tried this architecture")
	}
	f := probe{Options: Options{Landlock: Off, Seccomp: On, Plan: Plan{Execute: []string{"/"}}}, Run: "/bin/true"}.run(t)
	if f.Enter != "" || !f.State.Seccomp || f.Personality != "EPERM" || f.Keyctl != "EPERM" || f.Run != "" || f.Threads != 0 {
		t.Errorf("%+v", f)
	}
	if f.Core != 0 || f.Filter != "00000000" {
		t.Errorf("core dumps up to %d with filter %s", f.Core, f.Filter)
	}
	f = probe{Options: Options{Landlock: Off, Seccomp: On, CoreDumps: true}, Run: "/bin/true"}.run(t)
	if f.Enter != "" || f.Run != "EPERM" || f.Filter == "00000000" {
		t.Errorf("without programs: %+v", f)
	}
	f = probe{Options: Options{Landlock: Off, Seccomp: Off, CoreDumps: true}, Run: "/bin/true", Read: []string{"/etc/passwd"}}.run(t)
	if f.Personality != "" || f.Run != "" || f.Read[0] != "" {
		t.Errorf("off: %+v", f)
	}
}

// What the filter costs a call.
func BenchmarkCall(b *testing.B) {
	for b.Loop() {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	}
}

// BenchmarkCallFiltered comes last: the filter stays.
func BenchmarkCallFiltered(b *testing.B) {
	if err := denyCalls(true); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	}
}
