package upgrade

import (
	"errors"
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
		{40, "", false},
		{40, "monitor", false},
	} {
		if err := followedBy(c.parent, c.name); errors.Is(err, ErrFollowed) != c.followed {
			t.Errorf("%d %s: %v", c.parent, c.name, err)
		}
	}
}
