package config

import (
	"slices"

	"github.com/spf13/pflag"

	"cleversocks/listener/proxyproto"
	"cleversocks/listener/tlsconf"
)

// Flags for the TLS of listeners that set none of their own.
const (
	tlsCertFlag = "tls-cert"
	tlsKeyFlag  = "tls-key"
)

// TLS is a listener's [listener.tls].
type TLS struct {
	Cert, Key string
	ClientCA  string
	CRL       string
	HTTP2     bool
	ACME      ACME
}

// ACME is where certificates come from that nobody installs.
type ACME struct {
	Domains   []string
	Email     string
	Cache     string
	Directory string
}

// Enabled says whether the listener speaks TLS.
func (t *TLS) Enabled() bool { return t.Cert != "" || t.Key != "" || len(t.ACME.Domains) > 0 }

// Options are the settings as their package takes them; name is the
// listener's.
func (t *TLS) Options(name string) tlsconf.Options {
	o := tlsconf.Options{Name: name, Cert: t.Cert, Key: t.Key, ClientCA: t.ClientCA, CRL: t.CRL, HTTP2: t.HTTP2}
	if len(t.ACME.Domains) > 0 {
		o.ACME = &tlsconf.ACME{Domains: t.ACME.Domains, Email: t.ACME.Email, Cache: t.ACME.Cache, Directory: t.ACME.Directory}
	}
	return o
}

func (t *TLS) keys() []Key {
	return []Key{
		{
			Name: "tls.cert", Value: &t.Cert, Default: "",
			Doc: "The certificate, with its chain, as a PEM file: clients of this listener speak TLS 1.2 or 1.3. It is read again on SIGHUP and when it changes; a certificate that does not fit the key leaves the old pair in force.",
		},
		{Name: "tls.key", Value: &t.Key, Default: "", Doc: "The certificate's key, as a PEM file that others may not read."},
		{
			Name: "tls.client_ca", Value: &t.ClientCA, Default: "",
			Doc: "A PEM file of the authorities that issue client certificates: every client needs one then. Its user is the first of its SPIFFE ID, common name and DNS names that is a user of the settings, or else the first of them.",
		},
		{
			Name: "tls.crl", Value: &t.CRL, Default: "",
			Doc: "Revoked client certificates: one or more lists in PEM, or one in DER, each signed by an authority in client_ca. It is read again like the certificate.",
		},
		{
			Name: "tls.http2", Value: &t.HTTP2, Default: "true",
			Doc: "Offers HTTP/2 by ALPN: browsers then carry all their tunnels in one connection.",
		},
		{
			Name: "tls.acme.domains", Value: &t.ACME.Domains, Default: "",
			Doc: "Has certificates for these names issued and renewed by an ACME server, by tls-alpn-01: port 443 of each name must lead to this listener.",
		},
		{Name: "tls.acme.email", Value: &t.ACME.Email, Default: "", Doc: "Where the ACME server's operator can reach you."},
		{Name: "tls.acme.cache", Value: &t.ACME.Cache, Default: "", Doc: "The directory that keeps keys and certificates over a restart."},
		{Name: "tls.acme.directory", Value: &t.ACME.Directory, Default: "", Doc: "The URL of the ACME server's directory. Empty: Let's Encrypt."},
	}
}

// finishTLS judges the combination and reads the files, so that `check`
// refuses what the daemon would.
func (l *Listener) finishTLS(f *finisher, element string) {
	t := &l.TLS
	bad := func(key, format string, args ...any) {
		f.add(f.cfg.originOf(element+key), element+key, format, args...)
	}
	acme := len(t.ACME.Domains) > 0
	switch {
	case acme && (t.Cert != "" || t.Key != ""):
		bad(".tls.acme.domains", "excludes tls.cert and tls.key: the ACME server issues the certificate")
	case acme && t.ACME.Cache == "":
		bad(".tls.acme.cache", "must name a directory: without one every restart asks for new certificates, which the server soon refuses")
	case !acme && (t.ACME.Email != "" || t.ACME.Cache != "" || t.ACME.Directory != ""):
		bad(".tls.acme.domains", "must name the domains that certificates are for")
	case t.Cert != "" && t.Key == "":
		f.add(f.cfg.originOf(element+".tls.cert"), element+".tls.key", "is needed with tls.cert")
	case t.Key != "" && t.Cert == "":
		f.add(f.cfg.originOf(element+".tls.key"), element+".tls.cert", "is needed with tls.key")
	case !t.Enabled() && (t.ClientCA != "" || t.CRL != ""):
		bad(".tls.cert", "is needed with tls.client_ca and tls.crl: without it this listener speaks no TLS, and asks for no certificates")
	case t.CRL != "" && t.ClientCA == "":
		bad(".tls.client_ca", "is needed with tls.crl")
	case !t.Enabled():
	default:
		if t.Key != "" {
			if err := checkSecretPath(t.Key, f.cfg.Secrets.AllowWorldReadable); err != nil {
				bad(".tls.key", "%q: %v", t.Key, err)
				return
			}
		}
		warnings, err := tlsconf.Check(t.Options(element))
		if err != nil {
			bad(".tls", "%v", err)
		}
		for _, w := range warnings {
			f.warn("%s.tls: %s", element, w)
		}
	}
}

// takeTLSFlags gives --tls-cert and --tls-key to the listeners that have
// neither a certificate nor ACME.
func (c *Config) takeTLSFlags(fs *pflag.FlagSet) {
	if fs == nil || !changed(fs, tlsCertFlag) && !changed(fs, tlsKeyFlag) {
		return
	}
	for i := range c.Listeners {
		if t := &c.Listeners[i].TLS; !t.Enabled() {
			t.Cert, t.Key = fs.Lookup(tlsCertFlag).Value.String(), fs.Lookup(tlsKeyFlag).Value.String()
			c.origins[element("listener", i)+".tls.cert"] = flagOrigin(tlsCertFlag, "")
			c.origins[element("listener", i)+".tls.key"] = flagOrigin(tlsKeyFlag, "")
		}
	}
}

// Proxies is whose PROXY headers are believed at the listener.
func (l *Listener) Proxies() (*proxyproto.Policy, error) {
	return proxyproto.NewPolicy(proxyproto.Mode(l.ProxyProtocol), Prefixes(l.TrustedProxies))
}

func (l *Listener) finishProxies(f *finisher, element string) {
	if _, err := l.Proxies(); err != nil {
		key := element + ".proxy_protocol"
		f.add(f.cfg.originOf(key), key, "%v", err)
	}
	if len(l.TrustedProxies) > 0 && l.ProxyProtocol == string(proxyproto.Off) {
		f.warn("%s.trusted_proxies does nothing while proxy_protocol is off", element)
	}
}

// HasClientCA says whether any listener takes client certificates.
func (c *Config) HasClientCA() bool {
	return slices.ContainsFunc(c.Listeners, func(l Listener) bool { return l.TLS.ClientCA != "" })
}
