//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// placeCommand makes this program put itself into cgroups and become another
// program, so that no process of it escapes the accounting.
const placeCommand = "place"

// usage accounts for the processes of one proxy: by cgroups, version 1 or 2,
// where they can be made, else from /proc.
type usage struct {
	cpu    string // group with the processor time, "" for /proc
	memory string // group with the memory, "" for /proc
	v2     bool
	pid    int
}

func newUsage() *usage {
	name := fmt.Sprintf("cleversocks-bench-%d-%d", os.Getpid(), time.Now().UnixNano())
	own := ownGroups()
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		u := &usage{v2: true, cpu: makeGroup(root, own[""], name)}
		// Only where the parent hands the memory controller down.
		if _, err := os.Stat(filepath.Join(u.cpu, "memory.stat")); err == nil {
			u.memory = u.cpu
		}
		return u
	}
	return &usage{
		cpu:    makeGroup(filepath.Join(root, "cpuacct"), own["cpuacct"], name),
		memory: makeGroup(filepath.Join(root, "memory"), own["memory"], name),
	}
}

// makeGroup makes a group at the root of a hierarchy, else below our own
// group; "" when neither can be.
func makeGroup(root, own, name string) string {
	for _, parent := range []string{root, filepath.Join(root, own)} {
		group := filepath.Join(parent, name)
		if os.Mkdir(group, 0o755) == nil {
			return group
		}
	}
	return ""
}

// ownGroups is the cgroup of this process by controller; "" is version 2's.
func ownGroups() map[string]string {
	groups := make(map[string]string)
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return groups
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			groups[controller] = fields[2]
		}
	}
	return groups
}

// command wraps a program so that it runs in the groups.
func (u *usage) command(args []string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(self, append([]string{placeCommand, u.cpu, u.memory}, args...)...), nil
}

// place is the other half of command. It returns only to say what failed.
func place(args []string) error {
	if len(args) < 3 {
		return errors.New("place: too few arguments")
	}
	for _, group := range args[:2] {
		if group == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return syscall.Exec(args[2], args[2:], os.Environ())
}

// close removes the groups, which are empty a moment after the last process
// was killed.
func (u *usage) close() error {
	groups := []string{u.cpu, u.memory}
	if u.cpu == u.memory {
		groups = groups[:1]
	}
	var errs error
	for _, group := range groups {
		if group != "" {
			errs = errors.Join(errs, removeGroup(group))
		}
	}
	return errs
}

func removeGroup(group string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 300 {
		err := os.Remove(group)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		<-tick.C
	}
	return fmt.Errorf("%s: still busy", group)
}

// processes are the proxy's.
func (u *usage) processes() []int {
	if u.cpu == "" {
		return descendants(u.pid)
	}
	b, err := os.ReadFile(filepath.Join(u.cpu, "cgroup.procs"))
	if err != nil {
		return []int{u.pid}
	}
	var pids []int
	for field := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cpuTime is the processor time used so far; where there is no proxy, none.
func (u *usage) cpuTime() (time.Duration, error) {
	switch {
	case u == nil:
		return 0, nil
	case u.cpu == "":
		return processTime(u.processes())
	case u.v2:
		n, err := statField(filepath.Join(u.cpu, "cpu.stat"), "usage_usec")
		return time.Duration(n) * time.Microsecond, err
	}
	n, err := number(filepath.Join(u.cpu, "cpuacct.usage"))
	return time.Duration(n), err
}

// footprint is what the proxy holds at a moment.
type footprint struct {
	user        int64 // bytes private to its processes
	anonymous   int64 // of them and of shared ones, those that no file has
	file        int64 // bytes of files, its program's for the most part
	kernel      int64 // bytes the kernel holds for them; -1: unknown
	descriptors int64
}

func (u *usage) footprint() (footprint, error) {
	f := footprint{kernel: -1}
	for _, pid := range u.processes() {
		private, err := privateMemory(pid)
		if err != nil {
			return f, err
		}
		resident, anonymous, err := residentMemory(pid)
		if err != nil {
			return f, err
		}
		f.anonymous, f.file = f.anonymous+anonymous, f.file+resident-anonymous
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return f, err
		}
		f.user += private
		f.descriptors += int64(len(entries))
	}
	var err error
	switch {
	case u.memory == "":
	case u.v2:
		f.kernel, err = sumFields(filepath.Join(u.memory, "memory.stat"), "kernel", "sock")
	default:
		var tcp int64
		f.kernel, err = number(filepath.Join(u.memory, "memory.kmem.usage_in_bytes"))
		if err == nil {
			tcp, err = number(filepath.Join(u.memory, "memory.kmem.tcp.usage_in_bytes"))
		}
		f.kernel += tcp
	}
	return f, err
}
