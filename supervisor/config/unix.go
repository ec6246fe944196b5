package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cleversocks/authsvc"
)

// unixPrefix begins the address of a unix socket.
const unixPrefix = "unix:"

// parseSocket reads the path of a unix socket, or "@name" of one without a
// file, as it stands behind unixPrefix.
func parseSocket(path string) (string, error) {
	const most = 107 // unix(7): sun_path, less its end
	abstract := strings.HasPrefix(path, "@")
	switch {
	case len(path) > most, strings.ContainsRune(path, 0), path == "@",
		!abstract && (!filepath.IsAbs(path) || strings.HasSuffix(path, "/")):
		return "", fmt.Errorf("%q: must be the absolute path of a socket, or @ and a name, at most %d bytes", clip(path), most)
	case abstract:
		return path, nil
	}
	return filepath.Clean(path), nil
}

// defaultSocketMode lets owner and group connect.
const defaultSocketMode FileMode = 0o660

// UnixSocket is what the settings say of a listener on a unix socket alone.
type UnixSocket struct {
	Mode         FileMode
	Owner, Group string // names or numbers; "": as the daemon makes it
	UID, GID     int    // what they mean; -1: as the daemon makes it
	UsersByUID   UsersByUID
}

func (u *UnixSocket) keys() []Key {
	return []Key{
		{
			Name: "mode", Value: &u.Mode, Default: "0660",
			Doc: "Who may connect to a unix socket, as permissions of its file in octal: to connect takes the right to write. A name that begins with @ has no file, and whoever is on this machine may connect.",
		},
		{Name: "owner", Value: &u.Owner, Default: "", Doc: "The user whom a unix socket's file belongs to, by name or number. Another one than the daemon's own takes CAP_CHOWN."},
		{Name: "group", Value: &u.Group, Default: "", Doc: "The group of a unix socket's file, by name or number: one of the daemon's own, or it takes CAP_CHOWN."},
		{
			Name: "users_by_uid", Value: &u.UsersByUID, Default: "", Optional: true,
			Doc: "Which local users are known at this unix socket, by the user id that the kernel tells (SO_PEERCRED), as `{ 1000 = \"alice\" }`: they need not log in. Others log in, if they can, and are refused otherwise.",
		},
	}
}

// finishUnix refuses what has no meaning on a unix socket, or on none. What
// systemd passes may be either.
func (l *Listener) finishUnix(f *finisher, element string) {
	bad := func(key, format string, args ...any) {
		f.add(f.cfg.originOf(element+key), element+key, format, args...)
	}
	l.UID, l.GID = -1, -1
	if len(l.UsersByUID) == 0 && f.cfg.origins[element+".users_by_uid"].layer == fromFile {
		bad(".users_by_uid", "is an empty table: leave it out if nobody is meant to be known")
	}
	if len(l.UsersByUID) > 0 && l.TLS.ClientCA != "" {
		bad(".users_by_uid", "excludes tls.client_ca: a client would be two users")
	}
	if l.Address.Systemd != "" {
		l.finishSystemd(bad)
		return
	}
	if l.Address.Socket == "" {
		if key := l.fileKey(); key != "" {
			bad(key, `is for unix sockets: address = "unix:/run/cleversocks.sock"`)
		}
		if len(l.UsersByUID) > 0 {
			bad(".users_by_uid", `is for unix sockets: address = "unix:/run/cleversocks.sock"`)
		}
		return
	}
	if l.ReusePort > 1 {
		bad(".reuse_port", "must be 1 on a unix socket, which has no port")
	}
	for _, i := range l.impossibleOnUnix() {
		bad(i.key, "%s", i.why)
	}
	if strings.HasPrefix(l.Address.Socket, "@") {
		if key := l.fileKey(); key != "" {
			bad(key, "is not for a name that begins with @: it has no file, and whoever is on this machine may connect")
		}
		return
	}
	var err error
	if l.UID, err = idOf(l.Owner, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	}); err != nil {
		bad(".owner", "there is no user %q", clip(l.Owner))
	}
	if l.GID, err = idOf(l.Group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	}); err != nil {
		bad(".group", "there is no group %q", clip(l.Group))
	}
}

// finishSystemd refuses what the socket unit settles.
func (l *Listener) finishSystemd(bad func(key, format string, args ...any)) {
	if l.ReusePort > 1 {
		bad(".reuse_port", "must be 1 for systemd's sockets: the socket unit may have several ListenStream=, and ReusePort=")
	}
	if key := l.fileKey(); key != "" {
		bad(key, "is not for systemd's sockets: SocketMode=, SocketUser= and SocketGroup= are in the socket unit")
	}
}

// fileKey is a key about the file of a unix socket that is set, or "".
func (l *Listener) fileKey() string {
	switch {
	case l.Mode != defaultSocketMode:
		return ".mode"
	case l.Owner != "":
		return ".owner"
	case l.Group != "":
		return ".group"
	}
	return ""
}

// impossible is a setting that has no meaning, and why.
type impossible struct{ key, why string }

// impossibleOnUnix are the settings that have no meaning on a unix socket.
func (l *Listener) impossibleOnUnix() []impossible {
	var all []impossible
	for _, i := range []struct {
		impossible
		is bool
	}{
		{impossible{".transparent", "needs a port: a packet filter sends nothing to a unix socket"}, l.Transparent != "off"},
		{impossible{".proxy_protocol", "needs trusted_proxies, and the clients of a unix socket have no address"}, l.ProxyProtocol != "off"},
		{impossible{".allow_from", "keeps everybody out: the clients of a unix socket have no address; see mode, owner and group"}, len(l.AllowFrom) > 0},
		{impossible{".egress", `"same" is no address on a unix socket`}, l.SameEgress()},
		{impossible{".advertise", "is not for a unix socket: its clients are on this machine, and are told a loopback address"}, !l.Advertise.IsZero()},
		{impossible{".tls.acme.domains", "needs port 443, and not a unix socket"}, len(l.TLS.ACME.Domains) > 0},
	} {
		if i.is {
			all = append(all, i.impossible)
		}
	}
	return all
}

// FitsSystemd says what of listener i's settings has no meaning on the sockets
// that systemd has passed, now that they are known; nil: nothing.
func (c *Config) FitsSystemd(i int, isUnix bool) error {
	l, element := &c.Listeners[i], fmt.Sprintf("listener[%d]", i)
	var faults []Fault
	switch {
	case isUnix:
		for _, p := range l.impossibleOnUnix() {
			faults = append(faults, Fault{Key: element + p.key, Text: p.why})
		}
	case len(l.UsersByUID) > 0:
		faults = append(faults, Fault{Key: element + ".users_by_uid", Text: "is for unix sockets, and systemd has passed one with a port"})
	}
	return c.Invalid(faults)
}

// idOf is the number of a user or group; -1 for none.
func idOf(name string, lookUp func(string) (string, error)) (int, error) {
	if name == "" {
		return -1, nil
	}
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	number, err := lookUp(name)
	if err != nil {
		return -1, err
	}
	return strconv.Atoi(number)
}

// FileMode are the permissions of a file, in octal.
type FileMode fs.FileMode

// String is "0660".
func (m FileMode) String() string { return fmt.Sprintf("%#04o", uint32(m)) }

// MarshalText is String.
func (m FileMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads octal digits.
func (m *FileMode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || n > 0o777 {
		return errNotAccepted
	}
	*m = FileMode(n)
	return nil
}

func (FileMode) accepts() string { return `permissions in octal such as "0660"` }

// UsersByUID are users by the id that the kernel knows them by.
type UsersByUID map[uint32]string

// overflowUID is how the kernel shows users of other user namespaces that have
// no number in ours: who has it may be anybody.
const overflowUID = 65534

// setTable reads { 1000 = "alice" }. Its error is the predicate of a sentence.
func (u *UsersByUID) setTable(table map[string]any) error {
	all := make(UsersByUID, len(table))
	if len(table) > maxList {
		return fmt.Errorf("has %d elements, more than %d", len(table), maxList)
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		uid, err := strconv.ParseUint(key, 10, 32)
		name, isString := table[key].(string)
		_, twice := all[uint32(uid)]
		switch {
		case err != nil || uid == math.MaxUint32:
			return fmt.Errorf("%q: must be a user id, a number", clip(key))
		case uid == overflowUID:
			return fmt.Errorf("%d is what every user of another user namespace looks like: it cannot be one user", overflowUID)
		case !isString || name == "" || len(name) > authsvc.MaxName:
			return fmt.Errorf("%s: must be the name of a user, not %s", key, describe(table[key]))
		case twice:
			return fmt.Errorf("%d is there twice", uid)
		}
		all[uint32(uid)] = name
	}
	*u = all
	return nil
}

// UnmarshalText takes nothing but the default, no users.
func (u *UsersByUID) UnmarshalText(text []byte) error {
	if len(text) > 0 {
		return errNotAccepted
	}
	*u = nil
	return nil
}

// formatTOML is an inline table.
func (u UsersByUID) formatTOML() string {
	var items []string
	for _, uid := range slices.Sorted(maps.Keys(u)) {
		items = append(items, fmt.Sprintf("%d = %s", uid, QuoteTOML(u[uid])))
	}
	if len(items) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(items, ", ") + " }"
}

func (UsersByUID) accepts() string { return `a table of user ids and names such as { 1000 = "alice" }` }

// tableSetter is a value that is a table in the file.
type tableSetter interface {
	setTable(table map[string]any) error
	formatTOML() string
}

var errAbstract = errors.New("must be a path: a name that begins with @ is open to whoever is on this machine")

// PeerUsers are the users whom a unix socket knows by their id, by name.
func (c *Config) PeerUsers() []string {
	var names []string
	for _, l := range c.Listeners {
		names = slices.AppendSeq(names, maps.Values(l.UsersByUID))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
