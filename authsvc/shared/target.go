package shared

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/conn/netaddr"
)

// Target is where the store is and how to log in there. Make one with
// ParseURL, and add what must not stand in a URL.
type Target struct {
	Addresses []string // host:port, or the path of a unix socket
	Unix      bool
	TLS       bool
	Master    string // by its name; Addresses are sentinels then
	Database  int
	User      string // of the ACL; "": the default one
	Password  string

	SentinelPassword string
	TLSConfig        *tls.Config // of TLS; nil: the system's authorities
}

// ErrURL is a URL that names no store.
var ErrURL = errors.New(`is no redis://[user@]host:6379[/db], rediss:// (TLS), unix:///path, several hosts with commas between (a cluster), or redis+sentinel://host:26379,.../master[/db]`)

// ParseURL reads a store's URL. Its errors repeat nothing of the text, which
// may hold a password.
func ParseURL(text string) (Target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return Target{}, ErrURL
	}
	var t Target
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var err1, err2 error
		t.User, err1 = url.PathUnescape(user)
		t.Password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return Target{}, ErrURL
		}
		rest = rest[at+1:]
	}
	base, sentinel := strings.CutSuffix(scheme, "+sentinel")
	switch base {
	case "redis", "valkey":
	case "rediss", "valkeys":
		t.TLS = true
	case "unix":
		if sentinel {
			return Target{}, ErrURL
		}
		return t.socket(rest)
	default:
		return Target{}, ErrURL
	}
	return t.hosts(rest, sentinel)
}

func (t Target) socket(rest string) (Target, error) {
	path, query, _ := strings.Cut(rest, "?")
	if !strings.HasPrefix(path, "/") {
		return Target{}, ErrURL
	}
	t.Unix, t.Addresses = true, []string{path}
	if db, ok := strings.CutPrefix(query, "db="); ok {
		return t, t.database(db)
	} else if query != "" {
		return Target{}, ErrURL
	}
	return t, nil
}

func (t Target) hosts(rest string, sentinel bool) (Target, error) {
	list, path, _ := strings.Cut(rest, "/")
	port := "6379"
	if sentinel {
		port = "26379"
		t.Master, path, _ = strings.Cut(path, "/")
		if t.Master == "" {
			return Target{}, ErrURL
		}
	}
	for host := range strings.SplitSeq(list, ",") {
		address, err := withPort(host, port)
		if err != nil {
			return Target{}, err
		}
		t.Addresses = append(t.Addresses, address)
	}
	if path == "" {
		return t, nil
	}
	if err := t.database(path); err != nil {
		return Target{}, err
	}
	if t.Database != 0 && len(t.Addresses) > 1 && !sentinel {
		return Target{}, errors.New("a cluster has one database: leave the number out")
	}
	return t, nil
}

func (t *Target) database(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return ErrURL
	}
	t.Database = n
	return nil
}

func withPort(host, port string) (string, error) {
	if strings.ContainsAny(host, "?#") {
		return "", ErrURL
	}
	name, given, err := net.SplitHostPort(host)
	if err != nil {
		name, given = strings.Trim(host, "[]"), port
	}
	if n, err := netaddr.ParsePort(given); name == "" || err != nil || n == 0 {
		return "", ErrURL
	}
	return net.JoinHostPort(name, given), nil
}

// Bounds of a connection to the store. A call gives up long before; these end
// connections that are dead.
const (
	dialTimeout  = time.Second
	deadAfter    = time.Second // without an answer to a call or a ping
	clientBuffer = 32 << 10
)

// clientOptions is the target as the client library takes it. It retries
// nothing, since what is late is of no use, and caches nothing, which some
// clouds do not offer.
func (t Target) clientOptions() rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress: t.Addresses, Username: t.User, Password: t.Password, SelectDB: t.Database, ClientName: "cleversocks",
		DisableRetry: true, DisableCache: true, ForceSingleClient: t.Unix,
		// A call that is late does not end the connection for the others.
		AlwaysPipelining: true,
		ConnWriteTimeout: deadAfter, PipelineMultiplex: -1, BlockingPoolSize: 8,
		ReadBufferEachConn: clientBuffer, WriteBufferEachConn: clientBuffer,
	}
	o.Dialer = net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second}
	if t.TLS {
		o.TLSConfig = t.TLSConfig
		if o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	if t.Unix {
		o.DialCtxFn = dialUnix
	}
	if t.Master != "" {
		o.Sentinel = rueidis.SentinelOption{
			Dialer: o.Dialer, TLSConfig: o.TLSConfig, MasterSet: t.Master, Username: t.User, Password: t.SentinelPassword,
			TopologyRefreshInterval: 5 * time.Second,
		}
		if t.SentinelPassword == "" {
			o.Sentinel.Username = ""
		}
	}
	return o
}

// String is the target without secrets.
func (t Target) String() string {
	what := strings.Join(t.Addresses, ",")
	if t.Master != "" {
		return fmt.Sprintf("%s (master %s)", what, t.Master)
	}
	return what
}

// GoString keeps the password out of %#v.
func (t Target) GoString() string { return t.String() }
