package config

import (
	"io"
	"slices"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
)

// GSSAPI is auth.gssapi: Kerberos.
type GSSAPI struct {
	KeytabFile  string
	Service     string
	Protection  []Protection
	ClockSkew   Duration
	StripRealms []string
	Users       []string // PRINCIPAL = USER
	LowerCase   bool
	Groups      []string // SID = GROUP

	// Keytab and Mapping are what the file and the rules hold; nil: Kerberos is
	// not configured.
	Keytab  *gssapi.Keytab
	Mapping *gssapi.Mapping
}

const keytabKey = "auth.gssapi.keytab"

func (g *GSSAPI) keys() []Key {
	return []Key{
		{
			Name: "gssapi.keytab", Value: &g.KeytabFile, Default: "", Optional: true,
			Doc: "A keytab with the keys of this proxy's services, which turns Kerberos on: GSSAPI for SOCKS5 (RFC 1961) and Negotiate for HTTP (RFC 4559). Read again on SIGHUP. Keys of AES are accepted (encryption types 17 to 20), RC4 and DES are not.",
		},
		{
			Name: "gssapi.service", Value: &g.Service, Default: "rcmd",
			Doc: "The service that SOCKS5 clients ask a ticket for, as in `rcmd/proxy.example.com`; curl's and Dante's is `rcmd`. HTTP clients ask for `HTTP`.",
		},
		{
			Name: "gssapi.protection", Value: &g.Protection, Default: "confidentiality,integrity",
			Doc: "How the messages of SOCKS5 clients that log in by GSSAPI may be protected: `confidentiality` encrypts them, `integrity` keeps them from being changed. A client gets what it asks for, or the next better that is allowed.",
		},
		{
			Name: "gssapi.clock_skew", Value: &g.ClockSkew, Default: "5m", Min: "1s", Max: "1h",
			Doc: "By how much the clocks of clients may differ.",
		},
		{
			Name: "gssapi.strip_realms", Value: &g.StripRealms, Default: "", Optional: true,
			Doc: "Realms whose users are known without it, `alice` for `alice@EXAMPLE.COM`. Left out: those of the keytab. An empty list: none.",
		},
		{
			Name: "gssapi.users", Value: &g.Users, Default: "",
			Doc: "What principals are called here, as `PRINCIPAL = USER` or `/REGULAR EXPRESSION/ = USER`, with `$1` for its groups. An exact one counts before the others, of which the first that fits the whole principal counts.",
		},
		{
			Name: "gssapi.lower_case", Value: &g.LowerCase, Default: "false",
			Doc: "Makes the names of principals lower-case before they are mapped; the realm stays. Active Directory puts into a ticket what the user has typed, `ALICE` or `alice`: with this they are one user, for rules, limits and quotas.",
		},
		{
			Name: "gssapi.groups", Value: &g.Groups, Default: "",
			Doc: "Groups for the SIDs that Active Directory puts into tickets, as `SID = GROUP`.",
		},
	}
}

// finishGSSAPI reads the keytab and compiles the names.
func (c *Config) finishGSSAPI(f *finisher) {
	g := &c.Auth.GSSAPI
	if f.within("auth.gssapi") || !c.isSet(keytabKey) {
		return
	}
	if g.KeytabFile == "" {
		f.add(c.origins[keytabKey], keytabKey, "must name a file, or be left out if Kerberos is not wanted")
		return
	}
	keytab, err := gssapi.ReadKeytab(g.KeytabFile, func(path string) (io.ReadCloser, error) {
		return openSecret(path, c.Secrets.AllowWorldReadable)
	})
	if err != nil {
		f.add(c.origins[keytabKey], keytabKey, "%q: %v", g.KeytabFile, bare(err))
		return
	}
	if g.Service == "" {
		f.add(c.origins["auth.gssapi.service"], "auth.gssapi.service", "must not be empty")
	}
	if len(g.Protection) == 0 || slices.Contains(g.Protection, "none") {
		f.add(c.origins["auth.gssapi.protection"], "auth.gssapi.protection",
			`must have one of "confidentiality" and "integrity"; "none" is outside of the RFC, and for a listener's gssapi_protection alone`)
	}
	strip := g.StripRealms
	if !c.isSet("auth.gssapi.strip_realms") {
		strip = keytab.Realms()
	}
	mapping, err := gssapi.NewMapping(gssapi.MappingOptions{StripRealms: strip, Users: g.Users, LowerCase: g.LowerCase, Groups: g.Groups})
	if err != nil {
		f.add(c.origins[keytabKey], "auth.gssapi", "%v", err)
		return
	}
	g.Keytab, g.Mapping = keytab, mapping
	for i := range c.Listeners {
		c.Listeners[i].Protection = c.protectionOf(&c.Listeners[i])
	}
	for _, w := range c.keytabWarnings(keytab) {
		f.warn("auth.gssapi: %s", w)
	}
}

// keytabWarnings are about the services that the listeners' protocols need.
func (c *Config) keytabWarnings(keytab *gssapi.Keytab) []string {
	var socks, http bool
	for _, l := range c.Listeners {
		socks = socks || slices.Contains(l.Protocols, "socks5")
		http = http || slices.Contains(l.Protocols, "http")
	}
	var needed, optional []string
	if socks {
		needed = append(needed, c.Auth.GSSAPI.Service)
	}
	switch {
	case http && socks:
		optional = append(optional, "HTTP")
	case http:
		needed = append(needed, "HTTP")
	}
	return keytab.Warnings(needed, optional)
}

// levels are the protections by number.
var levels = map[Protection]gssapi.Level{
	"none": gssapi.LevelNone, "integrity": gssapi.LevelIntegrity, "confidentiality": gssapi.LevelConfidentiality,
}

// protectionOf is what a listener grants.
func (c *Config) protectionOf(l *Listener) gssapi.Protection {
	list := l.GSSAPIProtection
	if len(list) == 0 {
		list = c.Auth.GSSAPI.Protection
	}
	p := gssapi.Protection{NEC: l.GSSAPINEC}
	for _, name := range list {
		p.Levels = append(p.Levels, levels[name])
	}
	return p
}

// Protection is a level of RFC 1961.
type Protection string

// UnmarshalText reads its name.
func (p *Protection) UnmarshalText(text []byte) error {
	if _, known := levels[Protection(text)]; !known {
		return errNotAccepted
	}
	*p = Protection(text)
	return nil
}

// MarshalText is its name.
func (p Protection) MarshalText() ([]byte, error) { return []byte(p), nil }

func (Protection) accepts() string { return `"confidentiality", "integrity" or "none"` }

// Login is a way for clients to log in.
type Login string

// logins are the ways by what authsvc calls them.
var logins = map[Login]authsvc.Kind{"gssapi": authsvc.KindToken, "password": authsvc.KindPassword}

// UnmarshalText reads its name.
func (l *Login) UnmarshalText(text []byte) error {
	if _, known := logins[Login(text)]; !known {
		return errNotAccepted
	}
	*l = Login(text)
	return nil
}

// MarshalText is its name.
func (l Login) MarshalText() ([]byte, error) { return []byte(l), nil }

func (Login) accepts() string { return `"gssapi" or "password"` }

// Kinds are the credentials that a listener's clients may log in with, in the
// order of preference; nil: all there are.
func (l *Listener) Kinds() []authsvc.Kind { return kindsOf(l.Auth) }
