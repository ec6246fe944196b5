package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"cleversocks/authsvc"
	"cleversocks/metrics/admin"
	"cleversocks/supervisor/config"
)

// api is what the management API tells and does about access.
type api struct {
	config  func() *config.Config // in force
	explain func(context.Context, Question) (string, error)
	guards  *guards
}

func (a api) functions() admin.API {
	return admin.API{
		Token: func() string { return a.config().Admin.Token.Reveal() },
		Explain: func(ctx context.Context, v url.Values) (string, error) {
			return a.explain(ctx, questionOf(v))
		},
		Whitelist: func() any { return listWhitelist(a.guards.once) },
		Revoke: func(addr string) (bool, error) {
			ip, err := netip.ParseAddr(addr)
			if err != nil {
				return false, fmt.Errorf("%q is not an IP address", addr)
			}
			return a.guards.once.Revoke(ip.Unmap()), nil
		},
		Bans: func() any { return listBans(a.guards.Throttle) },
		Lift: func(source string) (bool, error) {
			text, _, _ := strings.Cut(source, "/") // a /32, or the /64 that is banned as one
			ip, err := netip.ParseAddr(text)
			if err != nil {
				return false, fmt.Errorf("%q is neither an IP address nor a range", source)
			}
			return a.guards.Throttle.Lift(ip.Unmap()), nil
		},
	}
}

// whitelistEntry is an address that auth-once lets in.
type whitelistEntry struct {
	Address string    `json:"address"`
	User    string    `json:"user"`
	Method  string    `json:"method"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

func listWhitelist(once *authsvc.Once) []whitelistEntry {
	list := []whitelistEntry{}
	for _, e := range once.List() {
		list = append(list, whitelistEntry{
			Address: e.Addr.String(), User: strings.ToValidUTF8(e.User, "\uFFFD"), Method: string(e.By), Since: e.Since, Until: e.Until,
		})
	}
	return list
}

// banEntry is a source that is kept out.
type banEntry struct {
	Source string    `json:"source"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Level  int       `json:"level"`
}

func listBans(throttle *authsvc.Throttle) []banEntry {
	list := []banEntry{}
	for _, b := range throttle.Bans() {
		list = append(list, banEntry{Source: b.Source.String(), Since: b.Since, Until: b.Until, Level: b.Level})
	}
	return list
}
