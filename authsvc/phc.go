package authsvc

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// scheme is how a password was hashed: two secrets of one scheme cost the
// same to check.
type scheme struct {
	kind    string
	memory  uint32 // argon2id: KiB
	passes  uint32 // argon2id: passes; bcrypt: cost
	threads uint8
}

// The kinds of a scheme.
const (
	kindPlain  = "plain"
	kindArgon2 = "argon2id"
	kindBcrypt = "bcrypt"
)

// What a hash may ask for. A check must not take the machine away: 1 GiB, 4
// GiB filled in all passes, bcrypt's cost 16 (some seconds each).
const (
	maxMemoryKiB  = 1 << 20
	maxFilledKiB  = 4 << 20
	maxThreads    = 16
	maxBcryptCost = 16
	maxHashLine   = 512
)

// secret is a hash to compare a password with. It prints as its scheme.
type secret struct {
	scheme
	salt []byte
	sum  []byte
	// digest tells a plain password from another one, whatever the key.
	digest [sha256.Size]byte
}

// String keeps the hash out of logs.
func (s *secret) String() string { return s.kind }

// GoString keeps the hash out of %#v.
func (s *secret) GoString() string { return s.kind }

// plainSecret holds a keyed hash of a password, never the password.
func plainSecret(key, password []byte) *secret {
	return &secret{scheme: scheme{kind: kindPlain}, sum: mac(key, password), digest: [sha256.Size]byte(mac(digestKey, password))}
}

// digestKey is of no use outside of this process.
var digestKey = newKey()

// same reports whether two secrets, of two generations of the settings, are of
// the same password: a plain one's sum is keyed anew by each.
func (s *secret) same(o *secret) bool {
	if s == nil || o == nil || s.scheme != o.scheme {
		return false
	}
	if s.kind == kindPlain {
		return subtle.ConstantTimeCompare(s.digest[:], o.digest[:]) == 1
	}
	return subtle.ConstantTimeCompare(s.sum, o.sum) == 1 && bytes.Equal(s.salt, o.salt)
}

// mac makes a comparison's time independent of length and content.
func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(strconv.AppendInt(nil, int64(len(p)), 10))
		h.Write([]byte{0})
		h.Write(p)
	}
	return h.Sum(nil)
}

// matches reports whether password is the secret's; key is that of
// plainSecret.
func (s *secret) matches(key, password []byte) bool {
	switch s.kind {
	case kindArgon2:
		sum := argon2.IDKey(password, s.salt, s.passes, s.memory, s.threads, uint32(len(s.sum)))
		return subtle.ConstantTimeCompare(sum, s.sum) == 1
	case kindBcrypt:
		return bcrypt.CompareHashAndPassword(s.sum, password) == nil
	}
	return subtle.ConstantTimeCompare(mac(key, password), s.sum) == 1
}

var errNoHash = errors.New("neither an argon2id ($argon2id$v=19$...) nor a bcrypt ($2b$...) hash")

// looksHashed reports whether a value claims to be a hash of some kind, so
// that a mistyped or unsupported one is not taken for a plain password.
func looksHashed(value []byte) bool {
	for _, p := range []string{"$argon2", "$2a$", "$2b$", "$2y$", "$2x$", "$apr1$", "$1$", "$5$", "$6$", "$y$", "$7$", "$scrypt$", "$pbkdf2", "{SHA", "{SSHA"} {
		if bytes.HasPrefix(value, []byte(p)) {
			return true
		}
	}
	return false
}

// IsHash reports whether a value is, or claims to be, a hash and no password.
func IsHash(value []byte) bool { return looksHashed(value) }

// parseHash reads an argon2id hash in PHC string form or a bcrypt hash. Its
// errors never repeat the value.
func parseHash(value []byte) (*secret, error) {
	switch {
	case len(value) > maxHashLine:
		return nil, errors.New("hash too long")
	case bytes.HasPrefix(value, []byte("$argon2id$")):
		return parseArgon2(string(value))
	case bytes.HasPrefix(value, []byte("$2a$")), bytes.HasPrefix(value, []byte("$2b$")), bytes.HasPrefix(value, []byte("$2y$")):
		return parseBcrypt(value)
	}
	return nil, errNoHash
}

func parseBcrypt(value []byte) (*secret, error) {
	const length = 60
	cost, err := bcrypt.Cost(value)
	if err != nil || len(value) != length {
		return nil, errors.New("malformed bcrypt hash")
	}
	if cost > maxBcryptCost {
		return nil, fmt.Errorf("bcrypt cost %d: at most %d", cost, maxBcryptCost)
	}
	for _, c := range value[7:] {
		if c != '.' && c != '/' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return nil, errors.New("malformed bcrypt hash")
		}
	}
	return &secret{scheme: scheme{kind: kindBcrypt, passes: uint32(cost)}, sum: bytes.Clone(value)}, nil
}

func parseArgon2(value string) (*secret, error) {
	malformed := errors.New("malformed argon2id hash: $argon2id$v=19$m=KiB,t=passes,p=threads$salt$hash")
	fields := strings.Split(value, "$")
	if len(fields) != 6 || fields[2] != "v=19" {
		return nil, malformed
	}
	params := strings.Split(fields[3], ",")
	if len(params) != 3 {
		return nil, malformed
	}
	var n [3]uint64
	for i, prefix := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(params[i], prefix)
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || strconv.FormatUint(v, 10) != digits {
			return nil, malformed
		}
		n[i] = v
	}
	if n[1] == 0 || n[2] == 0 || n[2] > maxThreads || n[0] < 8*n[2] || n[0] > maxMemoryKiB || n[0]*n[1] > maxFilledKiB {
		return nil, fmt.Errorf("argon2id m=%d,t=%d,p=%d is out of bounds: p 1 to %d, m 8p to %d KiB, m*t to %d KiB",
			n[0], n[1], n[2], maxThreads, maxMemoryKiB, maxFilledKiB)
	}
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(fields[4])
	sum, err2 := base64.RawStdEncoding.Strict().DecodeString(fields[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(sum) < 16 || len(sum) > 64 {
		return nil, malformed
	}
	return &secret{
		scheme: scheme{kind: kindArgon2, memory: uint32(n[0]), passes: uint32(n[1]), threads: uint8(n[2])},
		salt:   salt, sum: sum,
	}, nil
}

// phc is the inverse of parseArgon2.
func (s *secret) phc() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", s.memory, s.passes, s.threads,
		b64.EncodeToString(s.salt), b64.EncodeToString(s.sum))
}

// Hash makes the argon2id hash of a password, in PHC string form, for a users
// file. 19 MiB, two passes, one thread: a proxy checks often, and a server's
// memory is shared by the checks.
func Hash(password []byte) string {
	s := &secret{scheme: scheme{kind: kindArgon2, memory: 19 << 10, passes: 2, threads: 1}, salt: make([]byte, 16)}
	rand.Read(s.salt)
	s.sum = argon2.IDKey(password, s.salt, s.passes, s.memory, s.threads, 32)
	return s.phc()
}
