package authsvc

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"cleversocks/metrics"
)

var home = netip.MustParseAddr("192.0.2.7")

// cheap is the argon2id hash of a password at the lowest cost.
func cheap(password string, memory uint32) string {
	s := &secret{scheme: scheme{kind: kindArgon2, memory: memory, passes: 1, threads: 1}, salt: []byte("saltsalt")}
	return phcOf(s, password)
}

func newUsers(tb testing.TB, o UsersOptions) *Users {
	tb.Helper()
	if o.Queue == nil {
		o.Queue = NewQueue(QueueOptions{})
	}
	o.Metrics = &metrics.New().Auth
	u, err := NewUsers(o)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func writeFile(tb testing.TB, content string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "users")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func bcryptOf(tb testing.TB, password string) string {
	tb.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func mixedUsers(tb testing.TB) *Users {
	tb.Helper()
	file := writeFile(tb, "# users\n\narg:"+cheap("one", 8)+"\r\nbc:"+bcryptOf(tb, "two")+"\nraw\xff: pl:ain\xfe \nattrs:"+cheap("five", 8)+"\n")
	return newUsers(tb, UsersOptions{
		Users: []UserEntry{
			{Account: Account{Name: "alice", Groups: []string{"staff"}, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, PasswordHash: cheap("three", 16)},
			{Account: Account{Name: "nopass"}},
			{Account: Account{Name: "attrs", MaxConnections: 5}},
		},
		File: file, AllowPlain: true, User: "single", Password: "four",
	})
}

func TestVerify(t *testing.T) {
	u := mixedUsers(t)
	away := netip.MustParseAddr("198.51.100.1")
	tests := []struct {
		name, user, password string
		from                 netip.Addr
		ok                   bool
	}{
		{"argon2id", "arg", "one", away, true},
		{"bcrypt", "bc", "two", away, true},
		{"raw bytes, blanks and colons", "raw\xff", " pl:ain\xfe ", away, true},
		{"trimmed", "raw\xff", "pl:ain\xfe", away, false},
		{"single", "single", "four", away, true},
		{"entry", "alice", "three", home, true},
		{"entry from elsewhere", "alice", "three", away, false},
		{"limits and file", "attrs", "five", away, true},
		{"no password", "nopass", "", away, false},
		{"wrong", "arg", "two", home, false},
		{"prefix", "single", "fou", home, false},
		{"empty", "single", "", home, false},
		{"unknown", "eve", "one", home, false},
		{"empty name", "", "", home, false},
		{"endless", "arg", strings.Repeat("x", maxPassword+1), home, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second time from memory
				id, err := u.Verify(t.Context(), tt.from, []byte(tt.user), []byte(tt.password))
				if (err == nil) != tt.ok || !tt.ok && !errors.Is(err, ErrCredentials) {
					t.Fatal(id, err)
				}
				if tt.ok && (id.User != tt.user || id.Method != MethodPassword || id.Account == nil) {
					t.Errorf("%+v", id)
				}
			}
		})
	}
	if id, _ := u.Verify(t.Context(), home, []byte("attrs"), []byte("five")); id.Account.MaxConnections != 5 {
		t.Errorf("%+v", id.Account)
	}
}

// A failure costs the same hashes whoever was asked for: its time tells
// neither whether a user exists, nor how the password is hashed, nor that it
// was right and only the source wrong.
func TestFailuresCostTheSame(t *testing.T) {
	u := mixedUsers(t)
	away := netip.MustParseAddr("198.51.100.1")
	if _, err := u.Verify(t.Context(), home, []byte("alice"), []byte("three")); err != nil {
		t.Fatal(err) // from now on remembered
	}
	for _, c := range [][2]string{{"arg", "x"}, {"bc", "x"}, {"raw\xff", "x"}, {"single", "x"}, {"nopass", ""}, {"eve", "x"}, {"alice", "three"}, {"alice", "x"}} {
		before := u.metrics.Hashed.Get()
		if _, err := u.Verify(t.Context(), away, []byte(c[0]), []byte(c[1])); !errors.Is(err, ErrCredentials) {
			t.Errorf("%q: %v", c, err)
		}
		if n := u.metrics.Hashed.Get() - before; n != uint64(u.Schemes()) || n != 3 {
			t.Errorf("%q: %d hashes, want %d", c, n, u.Schemes())
		}
	}
}

func TestSuccessIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUsers(t, UsersOptions{Users: []UserEntry{{Account: Account{Name: "a"}, PasswordHash: cheap("p", 8)}}})
		verify := func(password string) uint64 {
			before := u.metrics.Hashed.Get()
			_, err := u.Verify(t.Context(), home, []byte("a"), []byte(password))
			if (err == nil) != (password == "p") {
				t.Fatal(err)
			}
			return u.metrics.Hashed.Get() - before
		}
		if verify("p") != 1 || verify("p") != 0 || verify("q") != 1 || verify("q") != 1 {
			t.Error("right passwords are hashed once, wrong ones each time")
		}
		pass(10*time.Minute - time.Second)
		if verify("p") != 0 {
			t.Error("forgotten too early")
		}
		pass(time.Second)
		if verify("p") != 1 {
			t.Error("remembered for ever")
		}
	})
}

func TestRememberedIsBounded(t *testing.T) {
	r := newRemembered(time.Minute, 4)
	for i := range 100 {
		tag := r.tag([]byte{byte(i)}, nil, nil)
		r.add(tag)
		if !r.has(tag) || r.until.Len() > 4 {
			t.Fatalf("after %d: %d kept", i, r.until.Len())
		}
	}
	if r.tag([]byte("ab"), []byte("c"), nil) == r.tag([]byte("a"), []byte("bc"), nil) {
		t.Error("name and password run into each other")
	}
}

func TestUsersErrors(t *testing.T) {
	const hidden = "s3cret"
	tests := []struct {
		name string
		o    UsersOptions
		want string
	}{
		{"plain in a file", UsersOptions{File: writeFile(t, "a:"+cheap("x", 8)+"\nb:"+hidden)}, "line 2: user \"b\": neither an argon2id"},
		{"no colon", UsersOptions{File: writeFile(t, hidden)}, "line 1: no colon"},
		// It was taken for a plain password, the empty one: bob, whose line was
		// never finished, needed none.
		{"nothing behind the colon", UsersOptions{File: writeFile(t, "bob:\n"), AllowPlain: true}, `line 1: user "bob": nothing behind the colon`},
		{"no name", UsersOptions{File: writeFile(t, ":"+hidden), AllowPlain: true}, "line 1: a user name"},
		{"twice", UsersOptions{File: writeFile(t, "a:"+hidden+"\na:"+hidden), AllowPlain: true}, "line 2: user \"a\" has a password already"},
		{"malformed is not plain", UsersOptions{File: writeFile(t, "a:$argon2id$v=19$m=8"+hidden), AllowPlain: true}, "malformed argon2id"},
		{"unsupported is not plain", UsersOptions{File: writeFile(t, "a:$apr1$"+hidden), AllowPlain: true}, "Apache MD5"},
		{"greedy", UsersOptions{File: writeFile(t, "a:$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA")}, "out of bounds"},
		{"costly", UsersOptions{File: writeFile(t, "a:$2b$31$"+strings.Repeat("a", 53))}, "bcrypt cost 31"},
		{"long line", UsersOptions{File: writeFile(t, "a:"+strings.Repeat(hidden, 2000)), AllowPlain: true}, "line 1: longer"},
		{"no file", UsersOptions{File: "/nonexistent/users"}, "no such file"},
		{"a directory", UsersOptions{File: t.TempDir()}, "not a regular file"},
		{"plain entry", UsersOptions{Users: []UserEntry{{Account: Account{Name: "a", Where: "c.toml:3"}, Password: hidden}}}, "c.toml:3: user[0].password: a plain password needs"},
		{"twice in the settings", UsersOptions{Users: []UserEntry{{Account: Account{Name: "a"}}, {Account: Account{Name: "a"}}}}, "user[1].name: user \"a\" is there already (user[0])"},
		{"single twice", UsersOptions{Users: []UserEntry{{Account: Account{Name: "a"}, PasswordHash: cheap("x", 8)}}, User: "a", Password: hidden}, "auth.user: user \"a\" has a password"},
		{"bad hash", UsersOptions{Users: []UserEntry{{Account: Account{Name: "a"}, PasswordHash: hidden}}}, "user[0].password_hash: neither"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewUsers(tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), hidden) {
				t.Errorf("got %v, want %q and no secret", err, tt.want)
			}
		})
	}
}

// A client on the link has a zone in its address, which no prefix contains:
// from = ["fe80::/10"] let nobody in.
func TestFromTheLink(t *testing.T) {
	a := Account{From: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}
	if !a.AllowsFrom(netip.MustParseAddr("fe80::1%eth0")) || a.AllowsFrom(netip.MustParseAddr("2001:db8::1")) {
		t.Error("a zone changes who may come")
	}
}

// Nothing that prints users prints a secret.
func TestSecretsDoNotPrint(t *testing.T) {
	u := mixedUsers(t)
	entry := u.byName["alice"]
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{u, entry.secret, entry.identity(MethodPassword)} {
			text := fmt.Sprintf(format, v)
			if strings.Contains(text, "argon2id$") || strings.Contains(text, fmt.Sprintf("%d", entry.secret.sum)) {
				t.Errorf("%s of %T: %s", format, v, text)
			}
		}
	}
}

func TestRequired(t *testing.T) {
	if (Configured{}).Required() {
		t.Error("nothing is configured")
	}
	for _, c := range []Configured{{User: true}, {UsersFile: true}, {NoPasswordFrom: true}, {Once: true}, {GSSAPI: true}, {ClientCA: true}} {
		if !c.Required() {
			t.Errorf("%+v opens the proxy", c)
		}
	}
	u := newUsers(t, UsersOptions{File: writeFile(t, "")})
	if _, err := u.Verify(t.Context(), home, []byte("a"), nil); !errors.Is(err, ErrCredentials) {
		t.Error("an empty file lets in")
	}
}

func TestHashRoundTrip(t *testing.T) {
	for _, password := range []string{"x", "\xff\x00\n", strings.Repeat("é", 300)} {
		s, err := parseHash([]byte(Hash([]byte(password))))
		if err != nil || !s.matches(nil, []byte(password)) || s.matches(nil, []byte(password+"x")) {
			t.Errorf("%q: %v", password, err)
		}
	}
}

// TestForeignHashes takes hashes that other programs made.
func TestForeignHashes(t *testing.T) {
	for hash, password := range map[string]string{
		// From the reference implementation's test.c.
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4": "password",
		// From crypt_blowfish's wrapper.c.
		"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW": "U*U",
	} {
		s, err := parseHash([]byte(hash))
		if err != nil || !s.matches(nil, []byte(password)) {
			t.Errorf("%s: %v", hash, err)
		}
	}
}

func TestReadPasswordLine(t *testing.T) {
	for in, want := range map[string]string{"pw\n": "pw", "pw\r\nmore": "pw", "p\xffw ": "p\xffw ", "\n": "", "": "", strings.Repeat("x", maxPassword+1): ""} {
		got, err := readPasswordLine(strings.NewReader(in))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
	path := writeFile(t, "secret\n")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var prompt bytes.Buffer
	if got, err := ReadPassword(f, &prompt); string(got) != "secret" || err != nil || prompt.Len() > 0 {
		t.Errorf("%q, %v, prompted %q", got, err, prompt.String())
	}
}
