package authsvc

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
)

// phcOf fills in the hash of a password and writes it out.
func phcOf(s *secret, password string) string {
	s.sum = argon2.IDKey([]byte(password), s.salt, s.passes, s.memory, s.threads, 16)
	return s.phc()
}

// FuzzParseHash: nothing panics, what is read is within bounds, and argon2id
// has one written form.
func FuzzParseHash(f *testing.F) {
	for _, s := range []string{
		cheap("x", 8), "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=08,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "$2b$31$", "$argon2i$", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := parseHash(value)
		if err != nil {
			return
		}
		switch s.kind {
		case kindArgon2:
			if s.phc() != string(value) {
				t.Fatalf("%q reads as %q", value, s.phc())
			}
			if s.memory > maxMemoryKiB || s.threads == 0 || s.threads > maxThreads || s.passes == 0 || s.memory < 8*uint32(s.threads) {
				t.Fatalf("%+v", s.scheme)
			}
		case kindBcrypt:
			if s.passes > maxBcryptCost || !bytes.Equal(s.sum, value) {
				t.Fatalf("%+v", s.scheme)
			}
		default:
			t.Fatalf("%q is %s", value, s.kind)
		}
	})
}

// FuzzReadUsers: nothing panics, names are within bounds, and no error
// repeats what is behind a colon.
func FuzzReadUsers(f *testing.F) {
	for _, s := range []string{"a:" + cheap("x", 8) + "\n", "# c\n\na:b\r\n", ":x", "a", "a:$2b$04$", "\xff\x00:\xfe", "a:\n"} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, plain bool) {
		users, err := readUsers(bytes.NewReader(data), newKey(), plain)
		if err != nil {
			return
		}
		for _, u := range users {
			if u.name == "" || len(u.name) > MaxName || u.secret == nil || !plain && u.secret.kind == kindPlain {
				t.Fatalf("%+v", u)
			}
		}
	})
}

// A hash of a scheme that is not supported was taken for a plain password, so
// that whoever had read the file could log in with what it says: $md5, $gy$,
// $3$$ and {CRYPT} were missed.
func TestHashesAreNoPasswords(t *testing.T) {
	for value, name := range map[string]string{
		"$md5$rounds=904$iPPKEBnEkp3JV8uX$0L6m7rOFTVFn.SGqo2M9W1": "Sun MD5",
		"$md5,rounds=5000$GUBv0xjJ$$mSwgIswdjlTY0YxV7HBVm0":       "Sun MD5",
		"$gy$j9T$abcdefgh$xyz":                                    "gost-yescrypt",
		"$3$$8846f7eaee8fb117ad06bdd830b7586c":                    "NTHASH",
		"{CRYPT}$6$salt$hash":                                     "{CRYPT}",
		"{SSHA512}c2FsdA==":                                       "{SSHA512}",
		"$1$salt$hash":                                            "md5crypt",
		"$6$salt$hash":                                            "SHA-512 crypt",
		"$y$j9T$salt$hash":                                        "yescrypt ",
		"$argon2i$v=19$m=8,t=1,p=1$c2FsdA$c2Fs":                   "argon2i:",
		"$unheard-of$x":                                           "$unheard-of$",
		"pbkdf2_sha256$600000$salt$hash=":                         "pbkdf2_sha256",
		"scrypt:32768:8:1$salt$0123":                              "scrypt:32768:8:1",
		"SCRAM-SHA-256$4096:c2FsdA==$x:y":                         "SCRAM-SHA-256",
		"*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19":               "MySQL",
		"*":                "/etc/shadow", // of a locked account: nobody's password
		"!!":               "/etc/shadow",
		"!$6$salt$hash":    "/etc/shadow",
		"*LK*$6$salt$hash": "/etc/shadow",
	} {
		for where, o := range map[string]UsersOptions{
			"file":  {File: writeFile(t, "a:"+value+"\n"), AllowPlain: true},
			"entry": {Users: []UserEntry{{Account: Account{Name: "a"}, Password: value}}, AllowPlain: true},
			"hash":  {Users: []UserEntry{{Account: Account{Name: "a"}, PasswordHash: value}}},
			"-P":    {User: "a", Password: value},
		} {
			_, err := NewUsers(o)
			if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), value) {
				t.Errorf("%s, %s: %v, want %q", value, where, err, name)
			}
		}
	}
	for _, password := range []string{"$ecret", "$", "a$b$c", "{brace", "0123456789abcdef0123456789abcdef", "$5", "*star", "!bang", "xx"} {
		if IsHash([]byte(password)) {
			t.Errorf("%q is refused as a hash", password)
		}
	}
}

// A hash of the empty password, made elsewhere, let in with none.
func TestEmptyPasswordIsNobodys(t *testing.T) {
	u := newUsers(t, UsersOptions{Users: []UserEntry{{Account: Account{Name: "a"}, PasswordHash: cheap("", 8)}}})
	if _, err := u.Verify(t.Context(), home, []byte("a"), nil); !errors.Is(err, ErrCredentials) {
		t.Errorf("let in: %v", err)
	}
	if _, err := NewUsers(UsersOptions{User: "a"}); err == nil {
		t.Error("-P with an empty password is accepted")
	}
}
