package authsvc

import (
	"bytes"
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
