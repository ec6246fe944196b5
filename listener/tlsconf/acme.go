package tlsconf

import (
	"sync"

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

	once sync.Once
	made *autocert.Manager
}

func (a *ACME) manager() *autocert.Manager {
	a.once.Do(func() {
		a.made = &autocert.Manager{
			Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(a.Domains...),
			Cache: autocert.DirCache(a.Cache), Email: a.Email,
		}
		if a.Directory != "" {
			a.made.Client = &acme.Client{DirectoryURL: a.Directory}
		}
	})
	return a.made
}
