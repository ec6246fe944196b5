package config

import (
	"fmt"
	"strings"
)

const adminDoc = "The management endpoint: metrics, health and, with a token, an API."

// Admin is the [admin] section.
type Admin struct {
	Address AdminAddress // the zero address: off
	Pprof   bool
	Hosts   []string // names by which it may be called

	HealthTCP ListenAddress // the zero address: none

	TokenFile string
	// Token is what TokenFile holds; unset: there is no API.
	Token Secret

	// Configured says that the address was given: then a failure to listen is
	// an error; for the default it is a warning.
	Configured bool
}

// AdminAddress is an address to listen on, or a unix socket with a file.
type AdminAddress struct{ ListenAddress }

// UnmarshalText reads HOST:PORT, unix: and the absolute path of a socket, or
// systemd: and a name.
func (a *AdminAddress) UnmarshalText(text []byte) error {
	if err := a.ListenAddress.UnmarshalText(text); err != nil {
		return err
	}
	if strings.HasPrefix(a.Socket, "@") {
		return errAbstract
	}
	return nil
}

func (a *Admin) keys() []Key {
	return []Key{
		{
			Name: "address", Value: &a.Address, Default: "127.0.0.1:9180", Flag: "admin", Arg: "ADDR:PORT",
			Doc: "Where metrics, health, the status page and the API are served: HOST:PORT, or unix:PATH, a socket whose owner needs no token, or systemd:NAME, as for listeners; empty: nowhere. When the default port is taken, or given to a listener, the daemon warns and goes on without; an address that is set and can't be had is an error.",
		},
		{
			Name: "pprof", Value: &a.Pprof, Default: "false",
			Doc: "Serves Go's profiles under /debug/pprof/.",
		},
		{
			Name: "hosts", Value: &a.Hosts, Default: "",
			Doc: `Names by which clients may call the endpoint, as "proxy.example.org" behind a reverse proxy. Addresses, names without a dot and names that the public DNS cannot hold (localhost, .local, .internal, .svc, .cluster.local, .test, .home.arpa) need no mention. Others are refused, since a web page can make its own name point here; /healthz and /readyz answer to any.`,
		},
		{
			Name: "health_tcp", Value: &a.HealthTCP, Default: "",
			Doc: "HOST:PORT of a port that accepts connections while the daemon is ready, and closes them at once, for load balancers that can do no more than connect. Nobody listens there while it is not ready. Empty: none. It is that of the start.",
		},
		{
			Name: "token_file", Value: &a.TokenFile, Default: "",
			Doc: "A file that holds the token for /api, better 16 bytes or more, read again on SIGHUP. Empty: there is no /api.",
		},
	}
}

func (c *Config) finishAdmin(f *finisher) {
	const key = "admin.address"
	c.Admin.Configured = c.isSet(key)
	c.Admin.readToken(f, c)
	f.resolve(key, c.origins[key], &c.Admin.Address.ListenAddress)
	c.finishHealthTCP(f)
	if c.Admin.Address.IsZero() || c.Admin.Address.isAnyPort() {
		return
	}
	for i, l := range c.Listeners {
		if l.Address != c.Admin.Address.ListenAddress {
			continue
		}
		o := c.origins[key]
		if o.layer == fromDefault { // it is to be in nobody's way
			f.warn("%s is also the default of admin.address: there is no admin endpoint; set admin.address to have one", l.Address)
			c.Admin.Address = AdminAddress{}
			return
		}
		f.add(o, fmt.Sprintf("listener[%d].address", i), "%s is also admin.address: give one of them another port", l.Address)
	}
	if !c.Admin.Address.IsLoopback() {
		f.warn("the admin endpoint on %s is not on loopback: whoever reaches it reads metrics", c.Admin.Address)
	}
}

func (c *Config) finishHealthTCP(f *finisher) {
	const key = "admin.health_tcp"
	at := &c.Admin.HealthTCP
	f.resolve(key, c.origins[key], at)
	if at.IsZero() {
		return
	}
	if at.Socket != "" || !at.AddrPort.IsValid() {
		f.add(c.originOf(key), key, "%s: write HOST:PORT", at)
		return
	}
	for i, l := range c.Listeners {
		if l.Address == *at && !at.isAnyPort() {
			f.add(c.originOf(key), key, "%s is also listener[%d].address: give one of them another port", at, i)
		}
	}
	if c.Admin.Address.ListenAddress == *at && !at.isAnyPort() {
		f.add(c.originOf(key), key, "%s is also admin.address: give one of them another port", at)
	}
}

// goodToken is the length from which an admin token is no longer worth guessing,
// in bytes: it can be tried at the speed of the network.
const goodToken = 16

func (a *Admin) readToken(f *finisher, c *Config) {
	if a.TokenFile == "" {
		return
	}
	const key = "admin.token_file"
	token, err := readSecret(a.TokenFile, c.Secrets.AllowWorldReadable)
	switch {
	case err != nil:
		f.add(c.originOf(key), key, "%q: %v", a.TokenFile, err)
	case strings.TrimSpace(token.Reveal()) == "":
		f.add(c.originOf(key), key, "%q: the token is empty", a.TokenFile)
	default:
		a.Token = token
		if n := len(token.Reveal()); n < goodToken {
			f.warn("%s: %s: the token has %d bytes, and can be guessed: better take %d or more", c.originOf(key).where, key, n, goodToken)
		}
	}
}
