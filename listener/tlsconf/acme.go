package tlsconf

import (
	"strings"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACME has certificates issued and renewed by a server that speaks RFC 8555,
// by tls-alpn-01 (RFC 8737): its server connects to port 443 of each domain,
// which has to lead to this door.
type ACME struct {
	Domains   []string
	Email     string
	Cache     string // directory for keys and certificates
	Directory string // URL of the ACME server; "": Let's Encrypt
}

// manager is the one that renews these certificates. It lives as long as the
// keeper, over reloads: another one for the same names would renew them too.
func (k *Keeper) manager(a *ACME) *autocert.Manager {
	key := strings.Join(append([]string{a.Email, a.Cache, a.Directory}, a.Domains...), "\x00")
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.managers[key]
	if m == nil {
		m = &autocert.Manager{
			Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(a.Domains...),
			Cache: autocert.DirCache(a.Cache), Email: a.Email,
		}
		if a.Directory != "" {
			m.Client = &acme.Client{DirectoryURL: a.Directory}
		}
		k.managers[key] = m
	}
	return m
}
