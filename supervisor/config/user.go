package config

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

const userDoc = "A user, and what that user may take. One with no password of its own gets it from auth.users_file."

// User is one [[user]].
type User struct {
	Name           string
	PasswordHash   Secret
	Password       Secret
	PasswordFile   string
	Groups         []string
	From           []Prefix // empty: from anywhere
	MaxConnections int      // 0: any number
	Up, Down       Rate     // from and to the client; 0: no limit
	QuotaBytes     Size     // both ways together; 0: none
	QuotaPeriod    Duration
	Egress         []Prefix
	MaxAddresses   int // 0: any number
	Disabled       bool
	ValidFrom      Moment
	ValidUntil     Moment
	Hours          []Hours // empty: all
	Note           string

	// Where is "file:line" of the entry.
	Where string
}

func (u *User) keys() []Key {
	return []Key{
		{Name: "name", Value: &u.Name, Default: "", Doc: "The user's name, at most 255 bytes."},
		{
			Name: "password_hash", Value: &u.PasswordHash, Default: "", Optional: true,
			Doc: "The password's argon2id (PHC string) or bcrypt hash. `cleversocks hash` makes one.",
		},
		{
			Name: "password", Value: &u.Password, Default: "", Optional: true,
			Doc: "The password itself. Needs auth.allow_plain_passwords.",
		},
		{
			Name: "password_file", Value: &u.PasswordFile, Default: "",
			Doc: "A file that holds the password: its bytes, without one newline at the end. Needs auth.allow_plain_passwords, unless it holds a hash.",
		},
		{
			Name: "groups", Value: &u.Groups, Default: "",
			Doc: "The groups that the user is in, for rules.",
		},
		{
			Name: "from", Value: &u.From, Default: "", Optional: true,
			Doc: "The addresses that the user may come from. From elsewhere the user is as unknown. Empty: from anywhere.",
		},
		{
			Name: "max_connections", Value: &u.MaxConnections, Default: "0", Min: "0", Max: "10000000",
			Doc: "How many connections the user may have at a time; 0: any number. One more is answered that it is not allowed.",
		},
		{
			Name: "bandwidth.up", Value: &u.Up, Default: "0B/s", Min: "0B/s",
			Doc: "Bytes a second from the user, over all of the user's connections; 0B/s: no limit.",
		},
		{
			Name: "bandwidth.down", Value: &u.Down, Default: "0B/s", Min: "0B/s",
			Doc: "Bytes a second to the user, over all of the user's connections; 0B/s: no limit.",
		},
		{
			Name: "quota.bytes", Value: &u.QuotaBytes, Default: "0B",
			Doc: "How much the user may move in a period, both ways together; 0B: any amount. At the end of it connections are closed, and new ones are answered that they are not allowed.",
		},
		{
			Name: "quota.period", Value: &u.QuotaPeriod, Default: "720h", Min: "1s",
			Doc: "How long a quota's period is. It begins with the first byte.",
		},
		{
			Name: "max_addresses", Value: &u.MaxAddresses, Default: "0", Min: "0", Max: "10000000",
			Doc: "From how many addresses the user may have connections at a time, an IPv6 /64 being one; 0: any number. A connection from one more is answered that it is not allowed.",
		},
		{
			Name: "disabled", Value: &u.Disabled, Default: "false",
			Doc: "Lets the user in no more, whatever the way to log in, and ends the user's connections at once.",
		},
		{Name: "valid_from", Value: &u.ValidFrom, Default: "", Doc: "From when on the user may use the proxy. Empty: always."},
		{Name: "valid_until", Value: &u.ValidUntil, Default: "", Doc: "Until when the user may use the proxy. Then the user's connections end, with the cause `revoked`. Empty: for ever."},
		{
			Name: "hours", Value: &u.Hours, Default: "", Optional: true,
			Doc: "When in the week the user may use the proxy: days (`mon`, `mon-fri`, `sat,sun`, `daily`), a span (`08:00-18:00`, also past midnight) and a zone (`Europe/Berlin`; else UTC). One of several is enough. At the end of a span the user's connections end. Empty: at all hours.",
		},
		{
			Name: "egress", Value: &u.Egress, Default: "", Optional: true,
			Doc: "The source addresses of the user's connections to targets: one, or for each connection a random one of a prefix. Targets of a family without an address here are not reached.",
		},
		{Name: "note", Value: &u.Note, Default: "", Doc: "Words of your own, for lists of users."},
	}
}

// finishUsers reads the users' files and tries all users, so that `check`
// says what the daemon would.
func (c *Config) finishUsers(f *finisher) {
	for i := range c.Users {
		at := fmt.Sprintf("user[%d]", i)
		c.Users[i].Where = c.originOf(at).fileLine()
		if u := &c.Users[i]; c.isSet(at+".hours") && len(u.Hours) == 0 {
			f.add(c.originOf(at+".hours"), at+".hours", "is an empty list: leave it out if nothing is meant to be restricted")
		}
		if u := &c.Users[i]; !u.ValidUntil.IsZero() && !u.ValidUntil.After(u.ValidFrom.Time) {
			f.add(c.originOf(at+".valid_until"), at+".valid_until", "is not after valid_from")
		}
		for _, key := range []string{".from", ".egress"} {
			if u := &c.Users[i]; c.isSet(at+key) && (key == ".from" && len(u.From) == 0 || key == ".egress" && len(u.Egress) == 0) {
				f.add(c.originOf(at+key), at+key, "is an empty list: leave it out if nothing is meant to be restricted")
			}
		}
		u := &c.Users[i]
		if u.PasswordFile != "" && !f.within(at) {
			u.readPassword(f, c, at)
		}
		if c.isSet(at+".password") && u.Password.Reveal() == "" && u.PasswordHash.Reveal() == "" {
			f.add(c.originOf(at+".password"), at+".password", "is empty: leave it out if the user is to have no password")
		}
	}
	if f.within("user") || f.within("auth") {
		return
	}
	good := true
	options := c.UsersOptions(nil, &metrics.New().Auth)
	for i, u := range options.Users {
		u.Where = "" // the message has it already
		alone := options
		alone.Users, alone.File, alone.User = []authsvc.UserEntry{u}, "", ""
		if _, err := authsvc.NewUsers(alone); err != nil {
			good = false
			c.addAt(f, strings.Replace(err.Error(), "user[0]", fmt.Sprintf("user[%d]", i), 1), "user")
		}
	}
	if !good {
		return
	}
	users, err := authsvc.NewUsers(options)
	if err != nil {
		// Where each user stands is at the front of the message.
		text := err.Error()
		if i := slices.IndexFunc(c.Users, func(u User) bool { return u.Where != "" && strings.HasPrefix(text, u.Where+": ") }); i >= 0 {
			text = strings.TrimPrefix(text, c.Users[i].Where+": ")
		}
		c.addAt(f, text, "auth.users_file")
		return
	}
	c.warnPowerless(f, users)
	c.subjects = c.subjectsOf(users)
	if n := users.Schemes(); n > 2 {
		f.warn("passwords are hashed in %d ways, and each failed log-in costs all of them: give all hashes the same parameters", n)
	}
}

// warnPowerless warns of users who cannot log in: most likely their password
// was forgotten. A user id, a ticket, a certificate or a local user's number need
// none.
func (c *Config) warnPowerless(f *finisher, users *authsvc.Users) {
	if c.Auth.SOCKS4Users || c.isSet(keytabKey) || c.HasClientCA() {
		return
	}
	local := c.PeerUsers()
	names := slices.DeleteFunc(users.Powerless(), func(name string) bool { return slices.Contains(local, name) })
	if n := len(names); n > 5 {
		f.warn("%d users have no password and so no way to log in, the first of them %q: give them a password_hash, or a line in auth.users_file", n, names[0])
		return
	}
	for _, name := range names {
		f.warn("user %q has no password and so no way to log in: give it a password_hash, or a line in auth.users_file", name)
	}
}

// addAt adds a problem whose text begins with the key that it is about, or
// else is about fallback.
func (c *Config) addAt(f *finisher, text, fallback string) {
	key, rest, ok := strings.Cut(text, ": ")
	at := key
	if element, _, isElement := strings.Cut(key, "]"); isElement {
		at = element + "]"
	}
	if _, known := c.origins[at]; !ok || !known {
		key, rest = fallback, text
	}
	f.add(c.originOf(key), key, "%s", rest)
}

// readPassword takes a password or a hash from the user's file.
func (u *User) readPassword(f *finisher, c *Config, at string) {
	key := at + ".password_file"
	if u.Password.IsSet() && u.Password.Reveal() != "" || u.PasswordHash.IsSet() && u.PasswordHash.Reveal() != "" {
		f.add(c.originOf(key), key, "contradicts password or password_hash, which also give the password: keep one")
		return
	}
	secret, err := readSecret(u.PasswordFile, c.Secrets.AllowWorldReadable)
	switch {
	case err != nil:
		f.add(c.originOf(key), key, "%q: %v", u.PasswordFile, err)
	case secret.Reveal() == "":
		f.add(c.originOf(key), key, "%q: is empty", u.PasswordFile)
	case authsvc.IsHash([]byte(secret.Reveal())):
		u.PasswordHash = secret
	default:
		u.Password = secret
	}
}

// UsersOptions are all users of the settings, for authsvc.NewUsers.
func (c *Config) UsersOptions(q *authsvc.Queue, m *metrics.Auth) authsvc.UsersOptions {
	o := authsvc.UsersOptions{
		Defaults: c.UserDefaults.account(),
		File:     c.Auth.UsersFile, AllowPlain: c.Auth.AllowPlain, Attributes: c.account, Queue: q, Metrics: m,
		Open: func(path string) (io.ReadCloser, error) { return openSecret(path, c.Secrets.AllowWorldReadable) },
	}
	if c.Auth.Credential != nil {
		o.User, o.Password = c.Auth.Credential.User, c.Auth.Credential.Password.Reveal()
	}
	for i := range c.Users {
		u := &c.Users[i]
		account := u.account()
		c.withDefaults(&account, func(key string) bool { return c.isSet(element("user", i) + "." + key) })
		o.Users = append(o.Users, authsvc.UserEntry{
			Account: account, PasswordHash: u.PasswordHash.Reveal(), Password: u.Password.Reveal(),
		})
	}
	return o
}

// account is the user's settings but for the password.
func (u *User) account() authsvc.Account {
	return authsvc.Account{
		Name: u.Name, Groups: u.Groups, From: Prefixes(u.From), MaxConnections: u.MaxConnections,
		Up: int64(u.Up), Down: int64(u.Down), QuotaBytes: int64(u.QuotaBytes), QuotaPeriod: u.QuotaPeriod.D(),
		Egress: Prefixes(u.Egress), Where: u.Where, MaxAddresses: u.MaxAddresses, Validity: u.validity(), Note: u.Note,
	}
}
