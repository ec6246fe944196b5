package authsvc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// anyUsersFile draws a users file as people write them, with the names in it.
func anyUsersFile(t *rapid.T) (content []byte, names []string) {
	end := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end")
	var b strings.Builder
	if rapid.Bool().Draw(t, "mark") {
		b.WriteString("\xef\xbb\xbf")
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "lines") {
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			b.WriteString(rapid.SampledFrom([]string{"", "  ", "# users of the office", "#alice:old"}).Draw(t, "remark"))
		default:
			name := fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"user", "us er", "\xff\xfe", "übel"}).Draw(t, "name"), i)
			names = append(names, name)
			b.WriteString(name + ":" + rapid.SampledFrom([]string{
				cheap("x", 8), "!" + cheap("y", 8), cheap("z", 8) + ":max_connections = 5, x-own = 'a:b'", "pl:ain # !",
			}).Draw(t, "value"))
		}
		if rapid.IntRange(0, 9).Draw(t, "cut") > 0 {
			b.WriteString(end)
		} else {
			b.WriteString("\n")
		}
	}
	content = []byte(b.String())
	if rapid.Bool().Draw(t, "unfinished") {
		content = bytes.TrimRight(content, "\r\n")
	}
	return content, names
}

// Whatever stands in a users file, an edit of one user leaves every other byte
// as it was, and what it writes is read as it was meant.
func TestEditsKeepEverythingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		content, names := anyUsersFile(t)
		added, err := AddUser(content, UserLine{Name: "new", Hash: cheap("n", 8), Attributes: "note = 'x'"})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(added, content) {
			t.Fatalf("%q became %q", content, added)
		}
		back, err := RemoveUser(added, "new")
		if err != nil || !bytes.Equal(bytes.TrimRight(back, "\r\n"), bytes.TrimRight(content, "\r\n")) {
			t.Fatalf("%q became %q, %v", content, back, err)
		}
		if len(names) == 0 {
			return
		}
		name := rapid.SampledFrom(names).Draw(t, "who")
		changed, err := ChangeUser(content, name, func(l *UserLine) error { l.Disabled = !l.Disabled; return nil })
		if err != nil {
			t.Fatal(err)
		}
		before, after := splitLines(content), splitLines(changed)
		i, parts := findUser(before, name)
		if len(before) != len(after) {
			t.Fatalf("%q became %q", content, changed)
		}
		for j := range before {
			if j != i && !bytes.Equal(before[j], after[j]) {
				t.Fatalf("line %d: %q became %q", j+1, before[j], after[j])
			}
		}
		_, now := findUser(after, name)
		if now.disabled == parts.disabled || !bytes.Equal(now.attributes, parts.attributes) {
			t.Fatalf("%q became %q", before[i], after[i])
		}
		list, err := readUsers(bytes.NewReader(bytes.TrimPrefix(changed, []byte("\xef\xbb\xbf"))), newKey(), true)
		if err != nil || len(list) != len(names) {
			t.Fatalf("%d users, %v in %q", len(list), err, changed)
		}
	})
}

// A file manager for proxies wrote the password of a user who got the same one
// twice in plain text. Here a plain one becomes a hash with the first change.
func TestPlainPasswordIsHashed(t *testing.T) {
	out, err := ChangeUser([]byte("a:se:cret\n"), "a", func(l *UserLine) error { l.Attributes = "max_connections = 1"; return nil })
	if err != nil || bytes.Contains(out, []byte("cret")) {
		t.Fatalf("%q, %v", out, err)
	}
	u := newUsers(t, UsersOptions{File: writeFile(t, string(out)), Attributes: func(string) (Account, error) { return Account{MaxConnections: 1}, nil }})
	if id, err := u.Verify(t.Context(), home, []byte("a"), []byte("se:cret")); err != nil || id.Account.MaxConnections != 1 {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestWrongEdits(t *testing.T) {
	content := []byte("a:" + cheap("x", 8) + "\n")
	for _, name := range []string{"", "#a", "a:b", "a\nb", "a\rb", "a\x00", " a", "a ", "\ufeffa", strings.Repeat("x", MaxName+1)} {
		if _, err := AddUser(content, UserLine{Name: name, Hash: cheap("x", 8)}); !errors.Is(err, ErrUserName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for what, err := range map[string]error{
		"there already": second(AddUser(content, UserLine{Name: "a", Hash: cheap("x", 8)})),
		"plain":         second(AddUser(content, UserLine{Name: "b", Hash: "s3cret"})),
		"too long":      second(AddUser(content, UserLine{Name: "b", Hash: cheap("x", 8), Attributes: strings.Repeat("x", maxUsersLine)})),
		"nobody":        second(RemoveUser(content, "b")),
		"nobody either": second(ChangeUser(content, "b", func(*UserLine) error { return nil })),
	} {
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// document opens a users file with some content.
func document(t *testing.T, path string) *UsersDocument {
	t.Helper()
	d, err := OpenUsersDocument(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// A symbolic link stays one, the mode is kept whatever the umask, and nothing
// is left beside the file.
func TestReplaceKeepsLinkAndMode(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "real"), filepath.Join(t.TempDir(), "users")
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.Chmod(path, 0o664), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	d := document(t, link)
	if err := d.Replace([]byte("new")); err != nil {
		t.Fatal(err)
	}
	info, _ := os.Lstat(link)
	mode, _ := os.Stat(path)
	got, _ := os.ReadFile(path)
	list, _ := os.ReadDir(dir)
	if info.Mode()&os.ModeSymlink == 0 || mode.Mode().Perm() != 0o664 || string(got) != "new" || len(list) != 1 {
		t.Errorf("%v %v %q %v", info.Mode(), mode.Mode(), got, list)
	}
}

// Somebody saved the file in an editor while it was being changed: theirs stays.
func TestReplaceNoticesAnotherWriter(t *testing.T) {
	path := writeFile(t, "old")
	d := document(t, path)
	if err := os.WriteFile(path, []byte("by hand"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Replace([]byte("new")); !errors.Is(err, ErrChangedMeanwhile) {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "by hand" {
		t.Errorf("%q", got)
	}
}

// brokenTemp fails where it is told to.
type brokenTemp struct {
	editTemp
	write, replace error
}

func (b brokenTemp) Write(p []byte) (int, error) {
	if b.write != nil {
		return 0, b.write
	}
	return b.editTemp.Write(p)
}

func (b brokenTemp) CloseAtomicallyReplace() error {
	if b.replace != nil {
		return b.replace
	}
	return b.editTemp.CloseAtomicallyReplace()
}

// A full disk, a read-only one, a directory of somebody else, and a file that a
// container mounts by itself: the old file stays whole, nothing lies beside it,
// and the error says what to do.
func TestReplaceFails(t *testing.T) {
	for name, tt := range map[string]struct {
		temp   brokenTemp
		create error
		want   string
	}{
		"disk full":   {temp: brokenTemp{write: syscall.ENOSPC}, want: "no space left"},
		"quota":       {temp: brokenTemp{replace: syscall.EDQUOT}, want: "quota exceeded"},
		"mounted":     {temp: brokenTemp{replace: &os.LinkError{Op: "rename", Err: syscall.EBUSY}}, want: "mount its directory"},
		"read-only":   {create: &os.PathError{Op: "open", Path: "/x/.users123", Err: syscall.EROFS}, want: "read-only file system: move it"},
		"not allowed": {create: &os.PathError{Op: "open", Path: "/x/.users123", Err: syscall.EACCES}, want: "may not write to its directory"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, "old")
			d := document(t, path)
			create := d.os.create
			d.os.create = func(path string, mode os.FileMode) (editTemp, error) {
				if tt.create != nil {
					return nil, tt.create
				}
				temp, err := create(path, mode)
				tt.temp.editTemp = temp
				return tt.temp, err
			}
			err := d.Replace([]byte("new"))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "the old one stays") || strings.Contains(err.Error(), ".users123") {
				t.Errorf("%v", err)
			}
			got, _ := os.ReadFile(path)
			if list, _ := os.ReadDir(filepath.Dir(path)); string(got) != "old" || len(list) != 1 {
				t.Errorf("%q, %v", got, list)
			}
		})
	}
}

// The generation that comes knows the right passwords of the one before, but
// for the user who has another one now: whose old password was worth something
// for ten minutes more in a program of this kind.
func TestMemoryOutlivesOthersChanges(t *testing.T) {
	before := newUsers(t, UsersOptions{File: writeFile(t, "a:"+cheap("x", 8)+"\nb:"+cheap("y", 8)+"\n")})
	for name, password := range map[string]string{"a": "x", "b": "y"} {
		if _, err := before.Verify(t.Context(), home, []byte(name), []byte(password)); err != nil {
			t.Fatal(err)
		}
	}
	after := newUsers(t, UsersOptions{File: writeFile(t, "a:"+cheap("x", 8)+"\nb:"+cheap("z", 8)+"\n"), Before: before})
	if _, err := after.Verify(t.Context(), home, []byte("a"), []byte("x")); err != nil || after.metrics.Hashed.Get() != 0 {
		t.Errorf("%v, %d hashes", err, after.metrics.Hashed.Get())
	}
	if _, err := after.Verify(t.Context(), home, []byte("b"), []byte("y")); !errors.Is(err, ErrCredentials) {
		t.Errorf("the old password: %v", err)
	}
	if _, err := after.Verify(t.Context(), home, []byte("b"), []byte("z")); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// A user who was taken out is not the one who is added under the name later:
// sessions of the first end, those of the second do not.
func TestRemovedUser(t *testing.T) {
	file := writeFile(t, "a:"+cheap("x", 8)+"\n")
	first := newUsers(t, UsersOptions{File: file})
	second := newUsers(t, UsersOptions{File: file, Before: first})
	second.Remove("a")
	third := newUsers(t, UsersOptions{File: file, Before: second})
	if !first.Account("a").Removed() || !second.Account("a").Removed() || third.Account("a").Removed() {
		t.Error("generations do not agree")
	}
	// The password goes, the entry in the settings stays: who logs in by it
	// from then on, by a certificate for one, is not the one who was removed.
	stays := newUsers(t, UsersOptions{Users: []UserEntry{{Account: Account{Name: "a"}}}, Before: third, Removes: "a"})
	third.Remove("a")
	if stays.Account("a").Removed() || !third.Account("a").Removed() {
		t.Error("who stays is taken for who was removed")
	}
	third = newUsers(t, UsersOptions{File: file, Before: third})
	a := NewAdmission(AdmissionOptions{Accounts: third.Account})
	for gone, u := range map[bool]*Users{true: first, false: third} {
		id, _ := u.Vouch("a")
		if refusal := a.Lapsed(id); (refusal != nil) != gone {
			t.Errorf("%v: %+v", gone, refusal)
		}
	}
}

func TestMarkedLines(t *testing.T) {
	u := newUsers(t, UsersOptions{File: writeFile(t, "off:!"+cheap("x", 8)+":note = 'a:b'\nbc:"+bcryptOf(t, "y")+"\n"), Attributes: func(text string) (Account, error) {
		return Account{Note: text}, nil
	}})
	if a := u.Account("off"); !a.Validity.Disabled || a.Note != "note = 'a:b'" || !a.InFile {
		t.Errorf("%+v", a)
	}
	if a := u.Account("bc"); a.Validity.Disabled || a.Note != "" {
		t.Errorf("%+v", a)
	}
	if _, err := NewUsers(UsersOptions{Queue: NewQueue(QueueOptions{}), File: writeFile(t, "a:"+cheap("x", 8)+":note = 1\n")}); err == nil {
		t.Error("attributes that nobody reads")
	}
	limits := []UserEntry{{Account: Account{Name: "a", Where: "c.toml:3"}}}
	_, err := NewUsers(UsersOptions{Queue: NewQueue(QueueOptions{}), Users: limits, File: writeFile(t, "a:"+cheap("x", 8)+":note = 1\n")})
	if err == nil || !strings.Contains(err.Error(), `line 1: user "a" has attributes here and limits in c.toml:3`) {
		t.Errorf("%v", err)
	}
}
