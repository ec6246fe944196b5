package upgrade

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A parent of another name, and one whose name is hidden, may be a shell's.
func TestFollowedBy(t *testing.T) {
	for _, c := range []struct {
		parent   int
		name     string
		followed bool
	}{
		{0, "", true},
		{1, "tini", true},
		{1, "docker-init", true},
		{40, "containerd-shim", true},
		{40, "crio-conmon", true},
		{1, "systemd", false},
		{1, "init", false},
		{40, "bash", false},
		{40, "sudo", false},
		{40, "timeout", false},
		{40, "upgrade.test", false},
		{40, "", false},
		{40, "monitor", false},
	} {
		if err := followedBy(c.parent, c.name, t.TempDir()); errors.Is(err, ErrFollowed) != c.followed {
			t.Errorf("%d %s: %v", c.parent, c.name, err)
		}
	}
}

// Whoever comes into a container by "docker exec" or nsenter has no parent there
// either, and was refused an upgrade, though nobody ends with that process.
func TestIsGuest(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		pid           string // of ourselves, by /proc
		files, group  string
		first, groups string // those of the first process; "": they cannot be read
		guest         bool
	}{
		"docker exec":                    {own, "mnt:[1]", "0::/", "mnt:[1]", "0::/", true},
		"nsenter from another group":     {own, "mnt:[1]", "0::/user", "mnt:[1]", "0::/", true},
		"docker exec as another user":    {own, "mnt:[1]", "0::/", "", "0::/", true},
		"nsenter to the processes alone": {"99999999", "mnt:[1]", "0::/", "", "0::/init", true},
		"a pod's container":              {own, "mnt:[2]", "0::/", "mnt:[1]", "0::/../pause", false},
		"one of another user":            {own, "mnt:[2]", "0::/", "", "0::/../pause", false},
		"of one group with the first":    {own, "mnt:[2]", "0::/", "mnt:[1]", "0::/", false},
		"nothing is known":               {own, "mnt:[1]", "", "", "", false},
	} {
		proc := t.TempDir()
		link := func(to, at string) {
			t.Helper()
			if to == "" {
				return
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(proc, at)), 0o700), os.Symlink(to, filepath.Join(proc, at))); err != nil {
				t.Fatal(err)
			}
		}
		text := func(content, at string) {
			t.Helper()
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(proc, at)), 0o700), os.WriteFile(filepath.Join(proc, at), []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		link(c.pid, "self")
		link(c.files, c.pid+"/ns/mnt")
		link(c.first, "1/ns/mnt")
		text(c.group, c.pid+"/cgroup")
		text(c.groups, "1/cgroup")
		if got := isGuest(proc); got != c.guest {
			t.Errorf("%s: %t", name, got)
		}
	}
}
