package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"

	"cleversocks/authsvc/shared"
)

const sharedDoc = "A Valkey or Redis by which several replicas act as one. docs/fleet.md says how."

// SharedState is the [shared_state] section.
type SharedState struct {
	URL                  StoreURL // the zero URL: there is none
	PasswordFile         string
	SentinelPasswordFile string
	CAFile               string
	CertFile             string
	KeyFile              string
	Prefix               string
	Replica              string // never empty when there is a URL
	Timeout              Duration
	OnError              string

	// Target is all of it, as the store's client takes it. It holds secrets, and
	// prints without them.
	Target shared.Target `json:"-"`
}

// The choices of shared_state.on_error.
const (
	OnErrorLocal = "local"
	OnErrorDeny  = "deny"
)

// StoreURL is a store's URL. It prints without its password.
type StoreURL struct{ secret Secret }

// IsSet says whether there is a store.
func (u StoreURL) IsSet() bool { return u.secret.Reveal() != "" }

// UnmarshalText reads what shared.ParseURL does. Its errors repeat nothing of
// the text.
func (u *StoreURL) UnmarshalText(text []byte) error {
	if len(text) > 0 {
		if _, err := shared.ParseURL(string(text)); err != nil {
			return err
		}
	}
	u.secret = NewSecret(string(text))
	return nil
}

// String is the URL with a mask in the place of its password.
func (u StoreURL) String() string {
	_, rest, _ := strings.Cut(u.secret.Reveal(), "://")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 && strings.Contains(rest[:at], ":") {
		return maskURL(u.secret.Reveal())
	}
	return u.secret.Reveal()
}

// GoString is String.
func (u StoreURL) GoString() string { return `config.StoreURL("` + u.String() + `")` }

// MarshalText is String.
func (u StoreURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (StoreURL) accepts() string {
	return `a store's URL such as "redis://user@host:6379/0", "rediss://host", "unix:///run/redis.sock", "redis://a:6379,b:6379" or "redis+sentinel://a:26379,b:26379/master"`
}

func (StoreURL) sensitive() {}

func (u StoreURL) reveal() string { return u.secret.Reveal() }

func (s *SharedState) keys() []Key {
	return []Key{
		{
			Name: "url", Value: &s.URL, Default: "",
			Doc: "Where the store is: `redis://[user@]host:6379[/db]`, `rediss://` with TLS, `unix:///path`, several hosts with commas between for a cluster, or `redis+sentinel://host:26379,host:26379/master[/db]` (`rediss+sentinel://`). Empty: each daemon is alone.",
		},
		{
			Name: "password_file", Value: &s.PasswordFile, Default: "",
			Doc: "A file that holds the store's password, of the URL's user or of the default one. Read again on SIGHUP, as are the certificates: until the store takes what is new, the connection of before stays.",
		},
		{
			Name: "sentinel_password_file", Value: &s.SentinelPasswordFile, Default: "",
			Doc: "A file that holds the password of the sentinels, if they want one.",
		},
		{Name: "ca_file", Value: &s.CAFile, Default: "", Doc: "The authorities (PEM) that the store's certificate is believed by. Empty: the system's."},
		{Name: "cert_file", Value: &s.CertFile, Default: "", Doc: "This client's certificate (PEM), if the store wants one."},
		{Name: "key_file", Value: &s.KeyFile, Default: "", Doc: "The key (PEM) of cert_file."},
		{
			Name: "prefix", Value: &s.Prefix, Default: "cs:",
			Doc: "What all keys in the store begin with. Daemons with the same one are one fleet.",
		},
		{
			Name: "replica", Value: &s.Replica, Default: "",
			Doc: "This replica's name, for people. Empty: the host's name.",
		},
		{
			Name: "timeout", Value: &s.Timeout, Default: "20ms", Min: "1ms", Max: "1s",
			Doc: "How long a connection waits for the store; then the replica decides by itself.",
		},
		{
			Name: "on_error", Value: &s.OnError, Default: OnErrorLocal, Choices: []string{OnErrorLocal, OnErrorDeny},
			Doc: "What happens to a connection that needs the store while it does not answer. `local`: this replica decides by what it knows. `deny`: it is refused.",
		},
	}
}

func (c *Config) finishShared(f *finisher) {
	s := &c.SharedState
	if !s.URL.IsSet() || f.within("shared_state") {
		return
	}
	target, err := shared.ParseURL(s.URL.secret.Reveal())
	if err != nil {
		f.add(c.originOf("shared_state.url"), "shared_state.url", "%v", err)
		return
	}
	if strings.ContainsAny(s.Prefix, "{}") {
		f.add(c.originOf("shared_state.prefix"), "shared_state.prefix", "must have no braces: they decide where a cluster keeps a key")
	}
	if s.Replica == "" {
		if s.Replica, err = os.Hostname(); err != nil {
			f.add(c.originOf("shared_state.replica"), "shared_state.replica", "is needed: the host has no name (%v)", err)
		}
	}
	for _, from := range []struct {
		key, path string
		into      *string
	}{
		{"shared_state.password_file", s.PasswordFile, &target.Password},
		{"shared_state.sentinel_password_file", s.SentinelPasswordFile, &target.SentinelPassword},
	} {
		if from.path == "" {
			continue
		}
		secret, err := readSecret(from.path, c.Secrets.AllowWorldReadable)
		if err != nil {
			f.add(c.originOf(from.key), from.key, "%q: %v", from.path, err)
			continue
		}
		if *from.into != "" {
			f.add(c.originOf(from.key), from.key, "contradicts the password in shared_state.url: keep one")
		}
		*from.into = secret.Reveal()
	}
	c.sharedTLS(f, &target)
	s.Target = target
}

// sharedTLS reads what a store with TLS is asked by.
func (c *Config) sharedTLS(f *finisher, t *shared.Target) {
	s := c.SharedState
	if !t.TLS {
		if s.CAFile+s.CertFile+s.KeyFile != "" {
			f.add(c.originOf("shared_state.url"), "shared_state.url", "has no TLS, and there are files for it: write rediss://")
		}
		return
	}
	t.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pool, err := readAuthorities(s.CAFile)
		if err != nil {
			f.add(c.originOf("shared_state.ca_file"), "shared_state.ca_file", "%q: %v", s.CAFile, err)
		}
		t.TLSConfig.RootCAs = pool
	}
	if s.CertFile+s.KeyFile == "" {
		return
	}
	if err := checkSecretPath(s.KeyFile, c.Secrets.AllowWorldReadable); err != nil {
		f.add(c.originOf("shared_state.key_file"), "shared_state.key_file", "%q: %v", s.KeyFile, err)
		return
	}
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		f.add(c.originOf("shared_state.cert_file"), "shared_state.cert_file", "%v", err)
		return
	}
	t.TLSConfig.Certificates = []tls.Certificate{pair}
}

func readAuthorities(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, bare(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("has no certificate")
	}
	return pool, nil
}
