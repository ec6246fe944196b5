package authsvc

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

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
	kindSealed = "sealed" // of a state file: compared with others, never with a password
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
	seals  *sealing // of a plain one; see seal
}

// sealing is the seal of a plain secret, made once. Generations of the settings share
// it as long as the password stays.
type sealing struct {
	made atomic.Bool
	mu   sync.Mutex
	sum  []byte
}

// oneSeal is held while a seal is made: one takes 19 MiB for a moment, and after an
// upgrade all who were let in may come at once.
var oneSeal sync.Mutex

// of makes the seal, the first time.
func (s *sealing) of(user string, digest []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sum == nil {
		oneSeal.Lock()
		defer oneSeal.Unlock()
		salt := mac([]byte("cleversocks auth-once"), []byte(user))
		s.sum = argon2.IDKey(digest, salt[:16], hashPasses, hashMemoryKiB, 1, 16)
		s.made.Store(true)
	}
	return s.sum
}

// String keeps the hash out of logs.
func (s *secret) String() string { return s.kind }

// GoString keeps the hash out of %#v.
func (s *secret) GoString() string { return s.kind }

// plainSecret holds a keyed hash of a password, never the password.
func plainSecret(key *macKey, password []byte) *secret {
	sum := key.mac(password)
	return &secret{scheme: scheme{kind: kindPlain}, sum: sum[:], digest: sha256.Sum256(password), seals: new(sealing)}
}

// goOn has a user's secret share the seal of the generation before, if it is of the
// same password: each reload had it made anew.
func (s *secret) goOn(before *secret) {
	if s != nil && before != nil && s.kind == kindPlain && before.kind == kindPlain &&
		subtle.ConstantTimeCompare(s.digest[:], before.digest[:]) == 1 {
		s.seals = before.seals
	}
}

// same reports whether two secrets of a user, of two generations of the
// settings or from the state file, are of the same password.
func (s *secret) same(o *secret, user string) bool {
	switch {
	case s == nil || o == nil:
		return false
	case s.kind == kindSealed:
		return subtle.ConstantTimeCompare(s.sum, o.seal(user)) == 1
	case s.scheme != o.scheme:
		return false
	case s.kind == kindPlain: // whose sum is keyed anew by each generation
		return subtle.ConstantTimeCompare(s.digest[:], o.digest[:]) == 1
	}
	return subtle.ConstantTimeCompare(s.sum, o.sum) == 1 && bytes.Equal(s.salt, o.salt)
}

var stampSeed = maphash.MakeSeed()

// stamp tells a secret from others, in this process; 0: there is none.
func (s *secret) stamp() uint64 {
	if s == nil {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(stampSeed)
	for _, part := range [][]byte{[]byte(s.kind), s.salt, s.digest[:]} {
		h.Write(part)
	}
	if s.kind != kindPlain { // whose sum is keyed anew by each generation
		h.Write(s.sum)
	}
	return h.Sum64()
}

// seal stands for the secret of a user in a state file: it tells whether the
// password is still the same, and is worth no more to whoever reads it than a
// line of a users file. For a plain password it costs a hash, once.
func (s *secret) seal(user string) []byte {
	switch s.kind {
	case kindSealed:
		return s.sum
	case kindPlain:
		return s.seals.of(user, s.digest[:])
	}
	return mac([]byte("cleversocks auth-once"), []byte(user), s.salt, s.sum)[:16]
}

// sealsAtOnce reports whether seal takes no hash.
func (s *secret) sealsAtOnce() bool { return s.kind != kindPlain || s.seals.made.Load() }

// matches reports whether password is the secret's; key is that of
// plainSecret.
func (s *secret) matches(key *macKey, password []byte) bool {
	switch s.kind {
	case kindArgon2:
		sum := argon2.IDKey(password, s.salt, s.passes, s.memory, s.threads, uint32(len(s.sum)))
		return subtle.ConstantTimeCompare(sum, s.sum) == 1
	case kindBcrypt:
		return bcrypt.CompareHashAndPassword(s.sum, password) == nil
	}
	if s.kind != kindPlain {
		return false
	}
	sum := key.mac(password)
	return subtle.ConstantTimeCompare(sum[:], s.sum) == 1
}

var errNoHash = errors.New("neither an argon2id ($argon2id$v=19$...) nor a bcrypt ($2b$...) hash")

// bcryptForms are the beginnings of bcrypt hashes.
var bcryptForms = [][]byte{[]byte("$2a$"), []byte("$2b$"), []byte("$2y$")}

// isOwnHash reports whether value begins like a hash that can be checked.
func isOwnHash(value []byte) bool {
	return bytes.HasPrefix(value, []byte("$argon2id$")) ||
		slices.ContainsFunc(bcryptForms, func(form []byte) bool { return bytes.HasPrefix(value, form) })
}

// parseHash reads an argon2id hash in PHC string form or a bcrypt hash. Its
// errors never repeat the value.
func parseHash(value []byte) (*secret, error) {
	switch {
	case len(value) > maxHashLine:
		return nil, errors.New("hash too long")
	case bytes.HasPrefix(value, []byte("$argon2id$")):
		return parseArgon2(string(value))
	case isOwnHash(value):
		return parseBcrypt(value)
	}
	return nil, errForeign(value)
}

// CheckHash is nil for a hash that passwords can be checked against. Its errors
// never repeat the value.
func CheckHash(value []byte) error {
	_, err := parseHash(value)
	return err
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

// The cost of the hashes that this program makes: 19 MiB, two passes, one
// thread. A proxy checks often, and a server's memory is shared by the checks.
const (
	hashMemoryKiB = 19 << 10
	hashPasses    = 2
)

// Hash makes the argon2id hash of a password, in PHC string form, for a users
// file.
func Hash(password []byte) string {
	s := &secret{scheme: scheme{kind: kindArgon2, memory: hashMemoryKiB, passes: hashPasses, threads: 1}, salt: make([]byte, 16)}
	rand.Read(s.salt)
	s.sum = argon2.IDKey(password, s.salt, s.passes, s.memory, s.threads, 32)
	return s.phc()
}

// Hash makes the hash of a password in turn with the passwords that are
// checked. It returns ErrBusy when too many wait, or ctx's error.
func (q *Queue) Hash(ctx context.Context, password []byte) (hash string, err error) {
	err = q.Do(ctx, netip.Addr{}, nil, hashMemoryKiB<<10, func() { hash = Hash(password) })
	return hash, err
}
