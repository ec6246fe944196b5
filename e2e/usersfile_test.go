package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The file may be edited by hand meanwhile: what was written there is kept, and
// in force with the next edit. One that is broken by hand is not made worse.
func TestUsersFileEditedByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	first := "bob:" + cheapHash(t, "x") + "\n"
	d := withUsers(t, path, first, noBans)
	rewrite(t, path, first+"# by hand\neve:"+cheapHash(t, "e")+":max_connections = 2\n")
	d.mustUser("", "disable", "bob")
	if got := fileHas(t, path); !strings.HasPrefix(got, "bob:!$2a$") || !strings.Contains(got, "\n# by hand\neve:$2a$") {
		t.Errorf("the file: %s", got)
	}
	if !letsIn(t, d.address, "eve", "e") {
		t.Error("eve is not known")
	}
	rewrite(t, path, first+"eve;"+cheapHash(t, "e")+"\n")
	if status, answer := d.ask("PATCH", "/api/v1/users/bob", object{"disabled": true}); status != 500 || !strings.Contains(answer, "line 2: no colon") {
		t.Errorf("%d %s", status, answer)
	}
	if got := fileHas(t, path); !strings.HasPrefix(got, first) || !letsIn(t, d.address, "eve", "e") {
		t.Errorf("the file: %s", got)
	}
	// Cut short, as by a full disk: the users are not forgotten for it.
	rewrite(t, path, "")
	if status, answer := d.ask("POST", "/api/v1/users", object{"name": "new", "password": "x"}); status != 500 || !strings.Contains(answer, "it had users and has none now") {
		t.Errorf("%d %s", status, answer)
	}
	if !letsIn(t, d.address, "eve", "e") {
		t.Error("eve is not known any more")
	}
}

// A disk that is full, or mounted read-only, a file that is a volume by itself:
// the answer says so, the old file is whole, and the old users are in force.
func TestUsersFileThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "users")
	content := "bob:" + cheapHash(t, "x") + "\n" + strings.Repeat("# much\n", 2000)
	d := withUsers(t, path, content, noBans)
	intact := func(says string) {
		t.Helper()
		status, answer := d.ask("PATCH", "/api/v1/users/bob", object{"disabled": true})
		if status != 500 || !strings.Contains(answer, says) || !strings.Contains(answer, "the old one stays") {
			t.Errorf("%d %s, want %s", status, answer, says)
		}
		list, err := os.ReadDir(dir)
		if err != nil || fileHas(t, path) != content || !letsIn(t, d.address, "bob", "x") {
			t.Errorf("%s: it is not as before: %v %v", says, list, err)
		}
		for _, e := range list {
			if strings.HasPrefix(e.Name(), ".") {
				t.Errorf("%s: %s was left", says, e.Name())
			}
		}
	}
	full, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = full.Write(make([]byte, 4096))
	}
	full.Close()
	intact("no space left on device")
	if err := os.Remove(full.Name()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(path, path, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	intact("mount its directory instead")
	if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	intact("read-only file system")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	d.mustUser("", "disable", "bob")
}
