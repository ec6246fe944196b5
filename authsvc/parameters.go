package authsvc

import (
	"strconv"
	"strings"
	"time"
)

// Parameters are what a client may write behind its user's name, where the
// settings have a separator for that (auth.user_parameters), as proxy sellers
// do: "alice+session-x+ttl-10m".
type Parameters struct {
	// Session keeps connections that name the same one on the same way out; "":
	// none was named.
	Session string
	// TTL is how long a session keeps its way out; 0: for ever.
	TTL time.Duration
}

// Bounds of parameters.
const (
	maxSession = 64
	minTTL     = time.Second
	maxTTL     = 30 * 24 * time.Hour
)

// SplitParameters takes the parameters off a name. A name whose rest is none is
// a name as it stands: it may be that of a user.
func SplitParameters(name, separator string) (user string, p Parameters) {
	user, rest, found := strings.Cut(name, separator)
	if separator == "" || !found || user == "" {
		return name, Parameters{}
	}
	for one := range strings.SplitSeq(rest, separator) {
		key, value, _ := strings.Cut(one, "-")
		switch {
		case key == "session" && p.Session == "" && value != "" && len(value) <= maxSession:
			p.Session = value
		case key == "ttl" && p.TTL == 0:
			d, err := time.ParseDuration(value)
			if err != nil || d < minTTL || d > maxTTL {
				return name, Parameters{}
			}
			p.TTL = d
		default:
			return name, Parameters{}
		}
	}
	return user, p
}

// Session is what chooses the way out at a time, the same on every replica: ""
// when the client has named none. Sessions with a TTL take another way when it
// is over, each at its own time.
func (id *Identity) Session(now time.Time) string {
	p := id.Parameters
	if p.Session == "" {
		return ""
	}
	key := id.User + "\x00" + p.Session
	if p.TTL == 0 {
		return key
	}
	var offset uint64 // of its own, by FNV-1a, so that not all change at once
	for _, c := range []byte(key) {
		offset = (offset ^ uint64(c)) * 0x100000001b3
	}
	ms := uint64(now.UnixMilli()) + offset%uint64(p.TTL.Milliseconds())
	return key + "\x00" + strconv.FormatUint(ms/uint64(p.TTL.Milliseconds()), 10)
}

// withoutParameters is credentials with the user's name alone.
func withoutParameters(c Credentials, separator string) (Credentials, Parameters) {
	if separator == "" {
		return c, Parameters{}
	}
	switch c := c.(type) {
	case Password:
		user, p := SplitParameters(string(c.User), separator)
		return Password{User: []byte(user), Password: c.Password}, p
	case UserID:
		user, p := SplitParameters(string(c), separator)
		return UserID(user), p
	}
	return c, Parameters{}
}
