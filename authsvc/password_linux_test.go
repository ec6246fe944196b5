package authsvc

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: what is written to typed is read by tty.
func terminal(t *testing.T) (typed, tty *os.File) {
	t.Helper()
	typed, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = typed.Close() })
	if err = unix.IoctlSetPointerInt(int(typed.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(typed.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return typed, tty
}

func TestReadPasswordFromTerminal(t *testing.T) {
	for typing, want := range map[string]string{"p w\np w\n": "p w", "one\ntwo\n": "", "\n\n": ""} {
		typed, tty := terminal(t)
		if _, err := typed.WriteString(typing); err != nil {
			t.Fatal(err)
		}
		var prompt bytes.Buffer
		got, err := ReadPassword(tty, &prompt)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", typing, got, err)
		}
		if prompt.String() != "Password: \nAgain: \n" {
			t.Errorf("prompted %q", prompt.String())
		}
	}
}
