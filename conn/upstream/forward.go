package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"cleversocks/conn/netaddr"
)

// ParseForward reads microsocks' -f: "match:port,[user:pass@]upstream:port,
// remote:port". A match of "*", "0.0.0.0" or nothing is any host, its port 0
// any port; the upstream speaks SOCKS5 and resolves; an empty remote or "*"
// keeps the host, its port 0 the port. It is an upstream, to be added under
// the given name, and the rule that leads to it. No error repeats the text,
// which may hold a password.
func ParseForward(spec, name string) (Upstream, Rule, error) {
	// The password may hold commas; the two ends cannot.
	match, rest, ok := strings.Cut(spec, ",")
	i := strings.LastIndexByte(rest, ',')
	if !ok || i < 0 {
		return Upstream{}, Rule{}, errors.New("-f: want match:port,[user:password@]upstream:port,remote:port")
	}
	via, remote := rest[:i], rest[i+1:]
	rule := Rule{Upstream: name, Rewrite: remote}
	host, port, err := splitHostPort(match)
	if err != nil {
		return Upstream{}, Rule{}, fmt.Errorf("-f: match: %w", err)
	}
	if host != "" && host != "*" && host != "0.0.0.0" {
		rule.To = []string{host}
	}
	if port != 0 {
		rule.Ports = []netaddr.PortRange{{First: port, Last: port}}
	}
	if _, err = parseRewrite(remote); err != nil {
		return Upstream{}, Rule{}, fmt.Errorf("-f: remote: %w", err)
	}
	hop, err := forwardURL(via)
	if err != nil {
		return Upstream{}, Rule{}, fmt.Errorf("-f: upstream: %w", err)
	}
	return Upstream{Name: name, Via: []string{hop}}, rule, nil
}

// forwardURL is the hop's URL for "[user:password@]host:port", where user and
// password are as they are, not escaped.
func forwardURL(via string) (string, error) {
	u := url.URL{Scheme: "socks5"}
	if i := strings.LastIndexByte(via, '@'); i >= 0 {
		user, password, ok := strings.Cut(via[:i], ":")
		if !ok {
			return "", errors.New("want user:password before the @")
		}
		u.User = url.UserPassword(user, password)
		via = via[i+1:]
	}
	host, port, err := splitHostPort(via)
	switch {
	case err != nil:
		return "", err
	case host == "" || port == 0:
		return "", errors.New("host and port are needed")
	}
	u.Host = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(port)))
	if _, err := ParseHop(u.String()); err != nil {
		return "", err
	}
	return u.String(), nil
}
