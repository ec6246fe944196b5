package supervisor

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"cleversocks/metrics/admin"
)

// api is what the management API tells and does about access.
func (d *daemon) api() admin.API {
	return admin.API{
		Token:     func() string { return d.config.Load().Admin.Token.Reveal() },
		Explain:   d.explain,
		Whitelist: d.listWhitelist,
		Revoke: func(addr string) (bool, error) {
			a, err := netip.ParseAddr(addr)
			if err != nil {
				return false, fmt.Errorf("%q is not an IP address", addr)
			}
			return d.once.Revoke(a.Unmap()), nil
		},
		Bans: d.listBans,
		Lift: func(source string) (bool, error) {
			text, _, _ := strings.Cut(source, "/") // a /32, or the /64 that is banned as one
			a, err := netip.ParseAddr(text)
			if err != nil {
				return false, fmt.Errorf("%q is neither an IP address nor a range", source)
			}
			return d.guards.Throttle.Lift(a.Unmap()), nil
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

func (d *daemon) listWhitelist() any {
	list := []whitelistEntry{}
	for _, e := range d.once.List() {
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

func (d *daemon) listBans() any {
	list := []banEntry{}
	for _, b := range d.guards.Throttle.Bans() {
		list = append(list, banEntry{Source: b.Source.String(), Since: b.Since, Until: b.Until, Level: b.Level})
	}
	return list
}
