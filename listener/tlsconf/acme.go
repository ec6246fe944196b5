package tlsconf

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
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

// How long an issuer waits before it asks for a domain again that it got no
// certificate for. Servers bound failures: Let's Encrypt takes five an hour.
const (
	firstRetry = time.Minute
	lastRetry  = 4 * time.Hour
)

// acmeCall bounds one request to the ACME server.
const acmeCall = 30 * time.Second

// acmePatience is how long a client waits for the first certificate. It is less
// than a handshake may take by default.
const acmePatience = 20 * time.Second

var errNotYet = errors.New("the ACME certificate is not there yet")

// errForeignName is a client that asks for a name that is not one of the door's.
var errForeignName = errors.New("no certificate is asked for by that name (tls.acme.domains)")

// issuer gets the certificates of some domains, before the first client comes,
// and says so when it gets none. autocert does the work, and renews them when a
// third of their time is left.
type issuer struct {
	manager *autocert.Manager
	log     *slog.Logger
	domains []string // as clients send them
	busy    atomic.Bool

	reasons reasons

	mu      sync.Mutex
	state   map[string]issued
	learned chan struct{} // closed, and made anew, whenever state changes
}

// issued is what an issuer knows of a domain.
type issued struct {
	leaf    *x509.Certificate // in force; nil: none yet
	overdue bool              // its renewal is, and that was said
	err     error             // of the last try; nil: it went well
	wait    time.Duration     // from that try to the next one
	again   time.Time         // when that is
}

// issuer is the one of these certificates. It lives as long as the keeper, over
// reloads: another one for the same names would renew them too.
func (k *Keeper) issuer(a *ACME) *issuer {
	key := strings.Join(append([]string{a.Email, a.Cache, a.Directory}, a.Domains...), "\x00")
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.issuers[key]
	if i == nil {
		i = newIssuer(a, k.log)
		k.issuers[key] = i
	}
	return i
}

func newIssuer(a *ACME, log *slog.Logger) *issuer {
	i := &issuer{log: log, state: make(map[string]issued), learned: make(chan struct{})}
	i.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(a.Domains...),
		Cache: autocert.DirCache(a.Cache), Email: a.Email,
		Client: &acme.Client{
			DirectoryURL: cmp.Or(a.Directory, autocert.DefaultACMEDirectory), UserAgent: "cleversocks",
			HTTPClient: &http.Client{Timeout: acmeCall, Transport: &i.reasons},
		},
	}
	for _, domain := range a.Domains {
		i.domains = append(i.domains, asciiName(domain))
	}
	return i
}

func asciiName(name string) string {
	if ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(name, ".")); err == nil {
		return ascii
	}
	return strings.ToLower(name)
}

// forChallenge says whether it is an ACME server that shakes hands. It has no
// client certificate, and gets nothing but the handshake: see IsChallenge.
func forChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto
}

// certificate is tls.Config.GetCertificate. A client that names nobody, since it
// knows us by address, gets the first domain's. One that comes before there is a
// certificate waits for it, and never makes us ask for one: the server would soon
// refuse us.
func (i *issuer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if forChallenge(hello) {
		return i.manager.GetCertificate(hello)
	}
	name := asciiName(hello.ServerName)
	if name == "" {
		name = i.domains[0]
	}
	if !slices.Contains(i.domains, name) {
		return nil, errForeignName
	}
	if err := i.await(hello, name); err != nil {
		return nil, err
	}
	return i.manager.GetCertificate(asking(name)) // from memory
}

// asking is a hello that has autocert give, or ask for, a name's certificate: one
// of ECDSA for everybody, and not another one of RSA for whoever wants that.
func asking(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
}

// await waits until there is a certificate or a try has failed. A conn that has to
// be told of a handshake that computes nothing for a while has a method Rest.
func (i *issuer) await(hello *tls.ClientHelloInfo, name string) error {
	ctx, cancel := context.WithTimeout(hello.Context(), acmePatience)
	defer cancel()
	for {
		i.mu.Lock()
		s, learned := i.state[name], i.learned
		i.mu.Unlock()
		if s.leaf != nil || s.err != nil {
			return s.refusal()
		}
		if waits, ok := hello.Conn.(interface{ Rest() }); ok {
			waits.Rest()
		}
		select {
		case <-learned:
		case <-ctx.Done():
			return errNotYet
		}
	}
}

// refusal is why a domain has no certificate to show.
func (s issued) refusal() error {
	if s.leaf != nil {
		return nil
	}
	return s.err
}

// visit sees that every domain has its certificate. It may take minutes.
func (i *issuer) visit(ctx context.Context) {
	defer i.busy.Store(false)
	for _, name := range i.domains {
		i.mu.Lock()
		wait := time.Until(i.state[name].again)
		i.mu.Unlock()
		if wait > 0 {
			continue
		}
		i.reasons.about(name)
		cert, err := i.manager.GetCertificate(asking(name)) // what is there already costs a look into a map
		i.learn(ctx, name, cert, err)
	}
}

// learn keeps, and says, what a try came to.
func (i *issuer) learn(ctx context.Context, name string, cert *tls.Certificate, err error) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.state[name]
	defer func() {
		i.state[name] = s
		close(i.learned)
		i.learned = make(chan struct{})
	}()
	who := slog.String("domain", name)
	if err != nil {
		s.wait = min(max(firstRetry, 2*s.wait), lastRetry)
		s.again = now.Add(s.wait)
		s.err = fmt.Errorf("no ACME certificate for %s, the next try is at %s UTC", name, s.again.UTC().Format(time.TimeOnly))
		i.log.LogAttrs(ctx, slog.LevelWarn, "no ACME certificate", who, slog.Any("err", i.reasons.explain(err)), slog.Duration("next_try", s.wait))
		return
	}
	s.err, s.wait, s.again = nil, 0, time.Time{}
	switch {
	case s.leaf == nil || !s.leaf.Equal(cert.Leaf):
		s.leaf, s.overdue = cert.Leaf, false
		i.log.LogAttrs(ctx, slog.LevelInfo, "ACME certificate in force", who, slog.Time("until", s.leaf.NotAfter))
	case !s.overdue && lateFor(s.leaf, now):
		s.overdue = true
		i.log.LogAttrs(ctx, slog.LevelWarn, "ACME certificate is not renewed, though it is time", who, slog.Time("until", s.leaf.NotAfter))
	}
}

// first is the certificate of a domain that ends before the others'; false: there
// is none yet.
func (i *issuer) first() (d dated, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, s := range i.state {
		if s.leaf != nil && (!ok || s.leaf.NotAfter.Before(d.until)) {
			d, ok = dated{datedCertificate, s.leaf.NotBefore, s.leaf.NotAfter}, true
		}
	}
	return d, ok
}

// lateFor says whether a certificate should have been renewed: that begins when
// a third of its time is left, and is tried every half an hour or hour.
func lateFor(leaf *x509.Certificate, now time.Time) bool {
	return leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/4
}
