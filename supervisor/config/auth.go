package config

import (
	"fmt"
	"strings"
	"unicode"

	"cleversocks/authsvc"
)

const authDoc = "Who may use the proxy."

// maxCredential is the longest user name or password of RFC 1929 §2.
const maxCredential = 255

// Auth is the [auth] section.
type Auth struct {
	Mode            AutoBool // as written
	User            string   // as written
	Password        Secret   // as written
	PasswordFile    string
	CredentialsFile string
	UsersFile       string
	AllowPlain      bool     // plain passwords in UsersFile and [[user]]
	NoPasswordFrom  []Prefix // clients that need no password
	Once            Once
	SOCKS4Users     bool
	UserParameters  string

	// Credential is the one user, wherever it was written; nil: none.
	Credential *Credential
	GSSAPI     GSSAPI
	// Required says that a client must authenticate.
	Required bool

	source string // the key that gives Credential's password; "": none
}

// Credential is a user name and password, at most 255 bytes each.
type Credential struct {
	User     string
	Password Secret
}

// Once is auth-once: who logged in needs no password for a while.
type Once struct {
	Enabled bool
	TTL     Duration
	Max     int // addresses
}

func (a *Auth) keys() []Key {
	return append(a.ownKeys(), a.GSSAPI.keys()...)
}

func (a *Auth) ownKeys() []Key {
	return []Key{
		{
			Name: "required", Value: &a.Mode, Default: "auto",
			Doc: "Whether clients must authenticate. `auto`: once any way to do so is configured, even if empty; a reload that would turn it off is refused, unless the setting says `false`.",
		},
		{
			Name: "user", Value: &a.User, Default: "", Optional: true, Flag: "user", Short: "u", Arg: "USER",
			Doc: "The user name. Needs a password.",
		},
		{
			Name: "password", Value: &a.Password, Default: "", Optional: true, Flag: "password", Short: "P", Arg: "PASS",
			Doc: "The user's password. Other users of the machine can see the flag when the daemon starts: rather use the environment, password_file or credentials_file.",
		},
		{
			Name: "password_file", Value: &a.PasswordFile, Default: "", Flag: "password-file", Arg: "FILE",
			Doc: "A file that holds the password: its bytes, without one newline at the end.",
		},
		{
			Name: "credentials_file", Value: &a.CredentialsFile, Default: "", Flag: "credentials-file", Arg: "FILE",
			Doc: "A file that holds one line, `user:password`, in place of auth.user and a password.",
		},
		{
			Name: "users_file", Value: &a.UsersFile, Default: "", Optional: true,
			Doc: "A file of `name:hash` lines, argon2id or bcrypt; read again on SIGHUP. `cleversocks hash` makes a hash.",
		},
		{
			Name: "allow_plain_passwords", Value: &a.AllowPlain, Default: "false",
			Doc: "Accepts plain passwords in auth.users_file and [[user]].",
		},
		{
			Name: "no_password_from", Value: &a.NoPasswordFrom, Default: "", Optional: true, Flag: "no-password-from", Short: "w", Arg: "IPS",
			Doc: "Addresses of clients that need no password, comma-separated. The flag needs a password to be configured, and takes names of hosts as well: their address at the start, and at each reload.",
		},
		{
			Name: "once.enabled", Value: &a.Once.Enabled, Default: "false", Flag: "auth-once", Short: "1",
			Doc: "An address from which somebody logged in needs no password for a while. The flag needs a password to be configured.",
		},
		{
			Name: "once.ttl", Value: &a.Once.TTL, Default: "1h", Min: "1s",
			Doc: "For how long, from the log-in on.",
		},
		{
			Name: "once.max", Value: &a.Once.Max, Default: "10000", Min: "1", Max: "1000000",
			Doc: "How many addresses at a time; past that the oldest is forgotten.",
		},
		{
			Name: "socks4_users", Value: &a.SOCKS4Users, Default: "false",
			Doc: "Accepts a SOCKS4 user id as the name of a user that has no password. Nothing proves it: the client is believed. Without it, and where authentication is required, SOCKS4 clients are refused unless something else admits them.",
		},
		{
			Name: "user_parameters", Value: &a.UserParameters, Default: "",
			Doc: "What separates a user's name from parameters behind it, as `+` in `alice+session-x+ttl-10m`, who logs in as `alice`. `session` keeps all connections that name it on the same member of a pool, or the same source address of several or of a prefix: the same on every replica, by hashing, and another only for sessions whose member is gone. `ttl` has it change after a time. Empty: a name is a name.",
		},
	}
}

// The keys that finishAuth judges together.
const (
	userKey        = "auth.user"
	passwordKey    = "auth.password"
	passwordFile   = "auth.password_file"
	credentialFile = "auth.credentials_file"
	usersFile      = "auth.users_file"
)

func (c *Config) finishAuth(f *finisher) {
	if !f.within("auth") {
		c.Auth.Credential = c.credential(f)
	}
	configured := c.configured()
	c.Auth.Required = c.Auth.Mode.Or(configured.Required())
	if c.Auth.Required && !configured.Required() && !f.within("auth") {
		f.add(c.origins["auth.required"], "auth.required",
			"nobody could log in: set auth.user and auth.password, auth.credentials_file, auth.users_file, a [[user]] or auth.gssapi.keytab")
	}
	c.needPassword(f)
	c.finishParameters(f)
	c.finishGSSAPI(f)
	if key := "auth.once.max"; c.State.Directory != "" && c.Auth.Once.Enabled && c.Auth.Once.Max > authsvc.MaxSavedOnce {
		f.add(c.origins[key], key, "must be at most %d with state.directory: the file there holds no more", authsvc.MaxSavedOnce)
	}
	if c.origins[passwordKey].layer == fromFlag {
		f.warn("-P shows the password to other users of this machine: rather use --credentials-file FILE (one user:password), " +
			"CLEVERSOCKS_AUTH__PASSWORD in the environment, or auth.password_file")
	}
}

// finishParameters judges the separator of parameters.
func (c *Config) finishParameters(f *finisher) {
	const key = "auth.user_parameters"
	separator := c.Auth.UserParameters
	switch {
	case separator == "":
		return
	case len(separator) > 4 || strings.ContainsFunc(separator, func(r rune) bool {
		return r <= ' ' || r > '~' || r == '-' || r == ':' || unicode.IsLetter(r) || unicode.IsDigit(r)
	}):
		f.add(c.originOf(key), key, "%q: want one to four printable characters that are neither letters, digits, spaces, colons nor dashes, as \"+\"", separator)
		return
	}
	for i := range c.Users {
		if user, p := authsvc.SplitParameters(c.Users[i].Name, separator); p != (authsvc.Parameters{}) {
			f.add(c.originOf(element("user", i)), element("user", i)+".name", "%q would log in as %q: see %s", c.Users[i].Name, user, key)
		}
	}
}

// configured is which ways to log in there are, even if empty.
func (c *Config) configured() authsvc.Configured {
	return authsvc.Configured{
		User:           c.Auth.Credential != nil || len(c.Users) > 0,
		UsersFile:      c.isSet(usersFile),
		NoPasswordFrom: c.isSet("auth.no_password_from"),
		Once:           c.Auth.Once.Enabled,
		ClientCA:       c.HasClientCA() || len(c.PeerUsers()) > 0,
		GSSAPI:         c.isSet(keytabKey),
	}
}

// needPassword refuses -1 and -w where there is no password to do without, as
// microsocks does: it is most likely forgotten.
func (c *Config) needPassword(f *finisher) {
	if c.Auth.Credential != nil || len(c.Users) > 0 || c.isSet(usersFile) || c.isSet(keytabKey) {
		return
	}
	for _, key := range []string{"auth.once.enabled", "auth.no_password_from"} {
		if o := c.origins[key]; o.layer == fromFlag {
			f.add(o, "", "must be used together with a user and password (-u and -P, --credentials-file, or users in the settings)")
		}
	}
}

// Exposed warns of listeners that strangers reach. The addresses are those
// that names gives for each listener: only who opened it knows the port that
// stands for 0. Nil: as configured. exposed says so of the i-th listener where
// the settings cannot, as it is systemd's; nil: unknown.
func (c *Config) Exposed(names []string, exposed func(i int) bool) []string {
	var warnings []string
	for i, l := range c.Listeners {
		at := l.Address.String()
		if i < len(names) {
			at = names[i]
		}
		switch {
		case l.Address.Systemd != "" && exposed != nil && exposed(i):
		case l.Address.IsLoopback():
			continue
		}
		switch {
		case !c.Auth.Required && len(l.Users)+len(l.Groups) == 0:
			warnings = append(warnings, fmt.Sprintf("no authentication on %s: whoever reaches this address can use the proxy", at))
		case l.TLS.Enabled() || !c.hasPasswords():
		default:
			warnings = append(warnings, fmt.Sprintf("passwords cross the network in clear text on %s", at))
		}
	}
	return warnings
}

// hasPasswords reports whether somebody has one to log in with.
func (c *Config) hasPasswords() bool {
	return c.Auth.Credential != nil || len(c.Users) > 0 || c.isSet(usersFile)
}

// credential finds the one user. A source of a higher layer wins; two of one
// layer are a contradiction. Empty text counts only where nothing else is
// given, so that a file can list all keys.
func (c *Config) credential(f *finisher) *Credential {
	key := c.passwordSource(f)
	c.Auth.source = key
	if key == credentialFile {
		return c.fromCredentialsFile(f)
	}
	userSet := c.isSet(userKey)
	switch {
	case key == "" && !userSet:
		return nil
	case key == "":
		f.add(c.origins[userKey], userKey, "needs a password: set auth.password, auth.password_file or CLEVERSOCKS_AUTH__PASSWORD")
		return nil
	case !userSet:
		f.add(c.origins[key], key, "needs a user: set auth.user (-u)")
		return nil
	}
	password := c.Auth.Password
	if key == passwordFile {
		var err error
		if password, err = readSecret(c.Auth.PasswordFile, c.Secrets.AllowWorldReadable); err != nil {
			f.add(c.origins[key], key, "%q: %v", c.Auth.PasswordFile, err)
			return nil
		}
	}
	return c.bounded(f, userKey, key, Credential{User: c.Auth.User, Password: password})
}

// finishCredential forgets what a higher layer has overruled, once nothing looks at it
// any more: the settings in force must not contradict each other in one file.
func (c *Config) finishCredential(*finisher) {
	switch c.Auth.source {
	case credentialFile:
		c.Auth.User, c.Auth.Password, c.Auth.PasswordFile = "", NewSecret(""), ""
	case passwordFile:
		c.Auth.Password, c.Auth.CredentialsFile = NewSecret(""), ""
	case passwordKey:
		c.Auth.PasswordFile, c.Auth.CredentialsFile = "", ""
	}
}

// passwordSource is the key that gives the password, or "".
func (c *Config) passwordSource(f *finisher) string {
	var given []string
	if c.Auth.CredentialsFile != "" {
		given = append(given, credentialFile)
	}
	if c.Auth.PasswordFile != "" {
		given = append(given, passwordFile)
	}
	if c.isSet(passwordKey) && (c.Auth.Password.Reveal() != "" || len(given) == 0) {
		given = append(given, passwordKey)
	}
	winner := ""
	for _, key := range given {
		switch {
		case winner == "" || c.origins[key].layer > c.origins[winner].layer:
			winner = key
		case c.origins[key].layer == c.origins[winner].layer:
			f.add(c.origins[key], key, "contradicts %s, which also gives the password: keep one", winner)
		}
	}
	return winner
}

func (c *Config) fromCredentialsFile(f *finisher) *Credential {
	o := c.origins[credentialFile]
	if user := c.origins[userKey]; c.Auth.User != "" && user.layer >= o.layer {
		f.add(user, userKey, "contradicts %s, which also gives the user: keep one", credentialFile)
		return nil
	}
	user, password, err := readCredentials(c.Auth.CredentialsFile, c.Secrets.AllowWorldReadable)
	if err != nil {
		f.add(o, credentialFile, "%q: %v", c.Auth.CredentialsFile, err)
		return nil
	}
	if user == "" {
		f.add(o, credentialFile, "%q: the user name is empty: the file holds one user:password", c.Auth.CredentialsFile)
		return nil
	}
	return c.bounded(f, credentialFile, credentialFile, Credential{User: user, Password: password})
}

// bounded refuses what no client can send.
func (c *Config) bounded(f *finisher, userAt, passwordAt string, cred Credential) *Credential {
	if n := len(cred.User); n > maxCredential {
		f.add(c.origins[userAt], userAt, "the user name has %d bytes: SOCKS5 carries at most %d", n, maxCredential)
	}
	if n := len(cred.Password.Reveal()); n > maxCredential {
		f.add(c.origins[passwordAt], passwordAt, "the password has %d bytes: SOCKS5 carries at most %d", n, maxCredential)
	}
	switch text := cred.Password.Reveal(); {
	case text == "" && cred.User != "":
		f.add(c.origins[passwordAt], passwordAt, "the password is empty: whoever knows the name %q could log in", cred.User)
		return nil
	case authsvc.IsHash([]byte(text)):
		f.add(c.origins[passwordAt], passwordAt, "this is %s, and would be the password as it stands: put the user into auth.users_file", authsvc.HashName([]byte(text)))
		return nil
	}
	return &cred
}
