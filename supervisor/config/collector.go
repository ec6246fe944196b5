package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"cleversocks/conn/netaddr"
)

// Collector is a program that takes access records, by syslog or by journald's
// own protocol.
type Collector struct {
	Journald bool
	Network  string // unix, udp or tcp
	Address  string // a socket's path, or host and port
	Facility int    // of syslog: RFC 5424 §6.2.1
	Old      bool   // the form of RFC 3164, which local daemons expect
}

// Where the two listen on the machine itself.
const (
	localSyslog   = "/dev/log"
	localJournald = "/run/systemd/journal/socket"
)

// facilities are syslog's, in the order of their numbers.
var facilities = strings.Fields("kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert clock " +
	"local0 local1 local2 local3 local4 local5 local6 local7")

// defaultFacility is "daemon".
const defaultFacility = 3

// isCollector says that an output is a word and no file's name.
func isCollector(output string) bool {
	word, _, _ := strings.Cut(output, ":")
	return word == "syslog" || word == "journald"
}

// Collector reads the setting log.access_output; false: it names a file, or is empty.
func (l *Log) Collector() (Collector, bool) {
	c, err := parseCollector(l.AccessOutput)
	return c, err == nil && isCollector(l.AccessOutput)
}

// parseCollector reads "journald[:/socket]" and "syslog:[udp://host[:514]|tcp://host[:601]|/socket][?facility=local0]".
func parseCollector(output string) (Collector, error) {
	word, rest, _ := strings.Cut(output, ":")
	if word == "journald" {
		c := Collector{Journald: true, Network: "unix", Address: localJournald}
		if rest != "" {
			c.Address = rest
		}
		return c, absolute(c.Address)
	}
	c := Collector{Network: "unix", Address: localSyslog, Facility: defaultFacility}
	where, query, _ := strings.Cut(rest, "?")
	if err := c.tune(query); err != nil {
		return c, err
	}
	scheme, host, remote := strings.Cut(where, "://")
	switch {
	case where == "":
		return c, nil
	case !remote:
		c.Address = where
		return c, absolute(where)
	case scheme == "udp":
		c.Network, c.Address = "udp", "514" // RFC 5426 §3.3
	case scheme == "tcp":
		c.Network, c.Address = "tcp", "601" // RFC 3195's port, which RFC 6587 recommends
	default:
		return c, fmt.Errorf("%s:// is no way to a syslog server: write udp:// or tcp://, or nothing for %s", clip(scheme), localSyslog)
	}
	var err error
	c.Address, err = hostPort(host, c.Address)
	return c, err
}

// tune reads what stands behind the question mark.
func (c *Collector) tune(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("what stands behind the question mark cannot be read")
	}
	for key := range values {
		value := values.Get(key)
		switch {
		case key == "facility" && facility(value) >= 0:
			c.Facility = facility(value)
		case key == "facility":
			return fmt.Errorf("there is no facility %q: write daemon, user or local0 to local7", clip(value))
		case key == "format" && (value == "rfc5424" || value == "rfc3164"):
			c.Old = value == "rfc3164"
		case key == "format":
			return fmt.Errorf("there is no format %q: write rfc5424 or rfc3164", clip(value))
		default:
			return fmt.Errorf("%q is unknown: there are facility and format", clip(key))
		}
	}
	return nil
}

func facility(name string) int {
	for i, f := range facilities {
		if f == name {
			return i
		}
	}
	return -1
}

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q: write a socket's path from the root, or udp://host:514 or tcp://host:601", clip(path))
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("a socket's path has at most %d bytes", maxSocketPath)
	}
	return nil
}

// maxSocketPath is what sun_path holds (unix(7)), with its end.
const maxSocketPath = 107

// hostPort completes a host with the port.
func hostPort(host, port string) (string, error) {
	u, err := url.Parse("//" + host)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.Fragment != "" {
		return "", fmt.Errorf("%q is no host with a port, such as logs.example.org:514 or [2001:db8::5]:514", clip(host))
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := netaddr.ParsePort(port); err != nil || n == 0 {
		return "", fmt.Errorf("%q is no port", clip(port))
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
