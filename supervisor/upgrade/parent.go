package upgrade

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrFollowed is why there is no upgrade below a program that follows the one
// process which it has started: to it the end of that is the daemon's.
var ErrFollowed = errors.New("takes the end of this process for the daemon's, whatever has become of a successor: restart instead")

// followers are such programs, by the names of their processes, of which the
// kernel keeps 15 bytes: the first processes of containers, supervisors, and what
// starts a container's program where that is not its first process.
var followers = []string{
	"tini", "docker-init", "dumb-init", "catatonit",
	"runsv", "s6-supervise", "supervisord", "supervise", "perpd", "circusd", "dinit",
	"containerd-shim", "conmon", "crio",
}

// starter is the parent at the start of this process. One that has taken it in since,
// when that had ended, has not started it, and follows another process.
var starter = os.Getppid()

// Followed wraps ErrFollowed where this process was started by such a program. A
// NOTIFY_SOCKET says nothing of it: containers and supervisors pass on systemd's.
func Followed() error {
	parent := os.Getppid()
	if parent != starter {
		return nil
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil {
		comm = nil // hidden
	}
	return followedBy(parent, strings.TrimSpace(string(comm)), "/proc")
}

// followedBy judges a parent by its id, which is 0 where it is outside of this
// process's namespace of processes, and by its name.
func followedBy(parent int, name, proc string) error {
	switch {
	case parent == 0 && !isGuest(proc):
		return fmt.Errorf("what started the container %w", ErrFollowed)
	case slices.ContainsFunc(followers, func(f string) bool { return name == f || strings.HasPrefix(name, f+"-") }):
		return fmt.Errorf("%s %w", name, ErrFollowed)
	}
	return nil
}

// isGuest says whether this process has come into a container that was there, as by
// "docker exec" or nsenter, and that goes on without it. A container which shares
// another's processes (a Kubernetes pod's) has files and a control group of its own.
func isGuest(proc string) bool {
	self := filepath.Join(proc, "self")
	if pid, err := os.Readlink(self); err == nil && pid != strconv.Itoa(os.Getpid()) {
		return true // /proc is of another namespace, where no container's is
	}
	first := filepath.Join(proc, "1")
	ours, err := os.Readlink(filepath.Join(self, "ns/mnt"))
	theirs, errFirst := os.Readlink(filepath.Join(first, "ns/mnt"))
	if err == nil && errFirst == nil {
		return ours == theirs
	}
	group, err := os.ReadFile(filepath.Join(self, "cgroup"))            //nolint:gosec // proc is /proc; others' may be read, too
	groupFirst, errFirst := os.ReadFile(filepath.Join(first, "cgroup")) //nolint:gosec // likewise
	return err == nil && errFirst == nil && len(group) > 0 && bytes.Equal(group, groupFirst)
}
