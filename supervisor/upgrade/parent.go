package upgrade

import (
	"errors"
	"fmt"
	"os"
	"slices"
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

// Followed wraps ErrFollowed where this process's parent is such a program. A
// NOTIFY_SOCKET says nothing of it: containers and supervisors pass on systemd's.
func Followed() error {
	parent := os.Getppid()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil {
		comm = nil // hidden
	}
	return followedBy(parent, strings.TrimSpace(string(comm)))
}

// followedBy judges a parent by its id, which is 0 where it is outside of the
// container, and by its name.
func followedBy(parent int, name string) error {
	switch {
	case parent == 0:
		return fmt.Errorf("what started the container %w", ErrFollowed)
	case slices.ContainsFunc(followers, func(f string) bool { return name == f || strings.HasPrefix(name, f+"-") }):
		return fmt.Errorf("%s %w", name, ErrFollowed)
	}
	return nil
}
