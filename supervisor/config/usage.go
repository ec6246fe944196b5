package config

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"net/url"
)

const usageDoc = "Usage and session events, pushed to an HTTP endpoint in batches. docs/operations.md describes them."

// Usage is the [usage] section.
type Usage struct {
	URL       UsageURL // the zero URL: nothing is pushed
	Interval  Duration
	TokenFile string
	CAFile    string
	Spool     Size

	Token     Secret         // what TokenFile holds
	Authority *x509.CertPool `json:"-"` // of CAFile; nil: the system's
}

// UsageURL is an endpoint's URL.
type UsageURL struct{ text string }

// String is the URL.
func (u UsageURL) String() string { return u.text }

// MarshalText is String.
func (u UsageURL) MarshalText() ([]byte, error) { return []byte(u.text), nil }

func (UsageURL) accepts() string { return `a URL such as "https://billing.example.org/usage"` }

// UnmarshalText reads an http or https URL without a password: that belongs
// into a file.
func (u *UsageURL) UnmarshalText(text []byte) error {
	u.text = string(text)
	if len(text) == 0 {
		return nil
	}
	parsed, err := url.Parse(u.text)
	switch {
	case err != nil:
		u.text = "" // the error may repeat it
		return errors.New("is no URL")
	case parsed.User != nil:
		u.text = ""
		return errors.New("must not hold a user or a password: put a token into usage.token_file")
	case parsed.Scheme != "http" && parsed.Scheme != "https", parsed.Hostname() == "":
		return errors.New("must begin with https:// or http:// and a host")
	}
	return nil
}

func (u *Usage) keys() []Key {
	return []Key{
		{
			Name: "url", Value: &u.URL, Default: "",
			Doc: "Where batches are posted to. Empty: nowhere. With `state.directory`, what was not taken yet waits there, over a restart too; without, in memory.",
		},
		{Name: "interval", Value: &u.Interval, Default: "10s", Min: "1s", Max: "1h", Doc: "How often. A batch of 1,000 events does not wait."},
		{Name: "token_file", Value: &u.TokenFile, Default: "", Doc: "A file that holds a token, sent as `Authorization: Bearer`, read again on SIGHUP."},
		{Name: "ca_file", Value: &u.CAFile, Default: "", Doc: "The authorities (PEM) that the endpoint's certificate is believed by. Empty: the system's."},
		{
			Name: "spool", Value: &u.Spool, Default: "64MiB", Min: "1MiB", Max: "64GiB",
			Doc: "How much may wait. Sessions that end past that are counted as lost (`cleversocks_usage_events_total`).",
		},
	}
}

func (c *Config) finishUsage(f *finisher) {
	u := &c.Usage
	if u.URL.text == "" {
		return
	}
	if u.TokenFile != "" {
		token, err := readSecret(u.TokenFile, c.Secrets.AllowWorldReadable)
		if err != nil {
			f.add(c.originOf("usage.token_file"), "usage.token_file", "%q: %v", u.TokenFile, err)
		}
		u.Token = token
	}
	parsed, err := url.Parse(u.URL.text)
	if err != nil {
		return // its own error is there
	}
	if u.CAFile != "" {
		pool, err := readAuthorities(u.CAFile)
		if err != nil {
			f.add(c.originOf("usage.ca_file"), "usage.ca_file", "%q: %v", u.CAFile, err)
		}
		u.Authority = pool
	}
	if host, err := netip.ParseAddr(parsed.Hostname()); parsed.Scheme == "http" && parsed.Hostname() != "localhost" && (err != nil || !host.IsLoopback()) {
		f.warn("usage.url is not https: whoever is on the way reads who used what, and the token")
	}
	if c.State.Directory == "" {
		f.warn("usage.url without state.directory: events that were not taken yet are lost when the daemon ends")
	}
}
