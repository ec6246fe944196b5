package shared

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// keys are the names of what is stored. What stands in braces decides the shard
// of a cluster (hash tag), so that each script touches one.
type keys struct{ prefix string }

func (k keys) user(name, what string) string { return k.prefix + "{u:" + tagged(name) + "}:" + what }

func (k keys) conns(user string) string     { return k.user(user, "conns") }
func (k keys) addresses(user string) string { return k.user(user, "ips") }

// period says when a user's quota period began; the counts are beside it, under
// a key for each period.
func (k keys) period(user string) string { return k.user(user, "q") }

func (k keys) source(addr netip.Addr, what string) string {
	return k.prefix + "{s:" + addr.String() + "}:" + what
}

func (k keys) fail(addr netip.Addr) string { return k.source(addr, "fail") }
func (k keys) ban(addr netip.Addr) string  { return k.source(addr, "ban") }
func (k keys) once(addr netip.Addr) string { return k.source(addr, "once") }

func (k keys) bans() string     { return k.prefix + "{bans}" }
func (k keys) bansData() string { return k.prefix + "{bans}:data" }
func (k keys) events() string   { return k.prefix + "events" }
func (k keys) replicas() string { return k.prefix + "{replicas}" }
func (k keys) about() string    { return k.prefix + "{replicas}:about" }
func (k keys) outUsers() string { return k.prefix + "{replicas}:lists" }

// outList is one of the lists that outUsers names.
func (k keys) outList(name string) string { return k.prefix + "{replicas}:out:" + name }

func (k keys) usage(id string) string { return k.prefix + "{r:" + tagged(id) + "}:users" }
func (k keys) probe(id string) string { return k.prefix + "{r:" + tagged(id) + "}:probe" }

// tagged is a name that may stand between the braces of a hash tag: a brace in
// it would end the tag.
func tagged(name string) string {
	if !strings.ContainsAny(name, "{}%") {
		return name
	}
	return strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D").Replace(name)
}

// newID is the id of a process that calls itself name. A successor on the same
// machine has another: both count while both have connections.
func newID(name string) string {
	var end [4]byte
	_, _ = rand.Read(end[:]) // never fails: crypto/rand aborts the program
	return strings.Map(func(r rune) rune {
		if r == '|' || r < ' ' {
			return '_'
		}
		return r
	}, name) + "~" + hex.EncodeToString(end[:])
}

// nameOf is the name in an id.
func nameOf(id string) string {
	if i := strings.LastIndexByte(id, '~'); i >= 0 {
		return id[:i]
	}
	return id
}

func ms(d time.Duration) string      { return strconv.FormatInt(d.Milliseconds(), 10) }
func itoa[N int | int64](n N) string { return strconv.FormatInt(int64(n), 10) }
