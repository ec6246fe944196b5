package resolver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"cleversocks/conn/textfile"
	"cleversocks/conn/wire"
)

// Bounds on what is taken from the system's files.
const (
	maxResolvConf  = 64 << 10
	maxHosts       = 32 << 20
	maxNameservers = 8
	maxSearch      = 32
)

// resolvConf is what resolv.conf(5) says, with its defaults.
type resolvConf struct {
	nameservers []netip.AddrPort
	search      []string // normalised
	ndots       int
	timeout     time.Duration // to the next server
	attempts    int
	rotate      bool
	useTCP      bool
}

// readResolvConf reads a resolv.conf. A missing file means its defaults: the
// name server of this host.
func readResolvConf(path string) (resolvConf, error) {
	f, err := os.Open(path) //nolint:gosec // the path is the operator's
	if errors.Is(err, fs.ErrNotExist) {
		return parseResolvConf(strings.NewReader(""))
	}
	if err != nil {
		return resolvConf{}, fmt.Errorf("resolv.conf: %w", err)
	}
	defer func() { _ = f.Close() }()
	conf, err := parseResolvConf(textfile.NewReader(io.LimitReader(f, maxResolvConf)))
	if err != nil {
		return resolvConf{}, fmt.Errorf("%s: %w", path, err)
	}
	return conf, nil
}

// parseResolvConf reads what it knows and, as resolv.conf(5) has it, passes
// over what it does not.
func parseResolvConf(r io.Reader) (resolvConf, error) {
	conf := resolvConf{ndots: 1, attempts: 2}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			addr, err := netip.ParseAddr(fields[1])
			if err == nil && len(conf.nameservers) < maxNameservers {
				conf.nameservers = append(conf.nameservers, netip.AddrPortFrom(addr.Unmap(), 53))
			}
		case "domain", "search": // the last one counts
			conf.search = searchList(fields[1:])
		case "options":
			for _, option := range fields[1:] {
				conf.option(option)
			}
		}
	}
	if len(conf.nameservers) == 0 {
		conf.nameservers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return conf, lines.Err()
}

func searchList(domains []string) []string {
	var list []string
	for _, d := range domains {
		if name, err := wire.NormalizeName(d); err == nil && len(list) < maxSearch {
			list = append(list, name)
		}
	}
	return list
}

// option reads one word of an options line, with resolv.conf(5)'s bounds.
func (c *resolvConf) option(word string) {
	key, value, _ := strings.Cut(word, ":")
	n, err := strconv.Atoi(value)
	known := err == nil && n >= 0
	switch {
	case key == "rotate":
		c.rotate = true
	case key == "use-vc":
		c.useTCP = true
	case key == "ndots" && known:
		c.ndots = min(n, 15)
	case key == "timeout" && known && n > 0:
		c.timeout = time.Duration(min(n, 30)) * time.Second
	case key == "attempts" && known && n > 0:
		c.attempts = min(n, 5)
	}
}

// candidates are the names to ask for in turn (resolv.conf(5): search).
func (c resolvConf) candidates(name string) []string {
	searched := make([]string, 0, len(c.search)+1)
	for _, domain := range c.search {
		if full := name + "." + domain; len(full) <= 253 {
			searched = append(searched, full)
		}
	}
	if strings.Count(name, ".") >= c.ndots {
		return append([]string{name}, searched...)
	}
	return append(searched, name)
}

// hosts is what a hosts file says, by normalised name.
type hosts map[string][]netip.Addr

// readHosts reads a hosts file; a missing one is empty.
func readHosts(path string) (hosts, error) {
	f, err := os.Open(path) //nolint:gosec // the path is the operator's
	if errors.Is(err, fs.ErrNotExist) {
		return hosts{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	defer func() { _ = f.Close() }()
	table, err := parseHosts(textfile.NewReader(io.LimitReader(f, maxHosts)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return table, nil
}

// parseHosts reads lines of an address and its names; others are passed over.
func parseHosts(r io.Reader) (hosts, error) {
	table := make(hosts)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		addr = addr.Unmap()
		for _, raw := range fields[1:] {
			name, err := wire.NormalizeName(raw)
			if err == nil && len(table[name]) < maxAddrs {
				table[name] = append(table[name], addr)
			}
		}
	}
	return table, lines.Err()
}
