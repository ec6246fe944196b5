package supervisor

import (
	"fmt"
	"path/filepath"
	"testing"

	"cleversocks/supervisor/upgrade"
)

// A process that drains read the file of the settings itself: an edit that was not meant
// yet, or was half written, counted there and nowhere else, and one user who was
// disabled by the API stayed in there when the file could not be read.
func TestDrainingGoesByWhatTheSuccessorHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	settings := func(disabled bool) string {
		return unconfined + fmt.Sprintf("[auth]\nallow_plain_passwords = true\n[[listener]]\naddress = '127.0.0.1:0'\n[[user]]\nname = 'alice'\npassword = 'x'\ndisabled = %t\n", disabled)
	}
	write(t, path, settings(false))
	d := quietly(t, path)
	d.tree.remove(t.Context(), d.tree.control, controlTimeout)
	disabled := func() bool { return d.config.Load().Users[0].Disabled }
	for _, c := range []struct {
		file, text string
		want       bool
	}{
		{"[[user", settings(true), true},
		{settings(true), settings(false), false},
		{settings(false), "[[user", false}, // of a version that knows another language: as before
		{settings(true), "", true},         // of one that does not send it: the file is read
	} {
		write(t, path, c.file)
		var told upgrade.Settings
		if c.text != "" {
			told.Text = []byte(c.text)
		}
		d.reloader.follow(t.Context(), told)
		if got := disabled(); got != c.want {
			t.Errorf("file %.20q, told %.20q: disabled %t", c.file, c.text, got)
		}
	}
}
