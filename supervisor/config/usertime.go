package config

import (
	"time"

	"cleversocks/authsvc"
)

const userDefaultsDoc = "The limits of users who set none of their own: of each `[[user]]` those that it leaves out (a 0 there lifts one), and all of those in auth.users_file and of auth.user. Users whom Kerberos or a certificate vouches for and who have no entry have no limits."

// UserDefaults is the [user_defaults] section.
type UserDefaults struct {
	MaxConnections int
	MaxAddresses   int
	Up, Down       Rate
	QuotaBytes     Size
	QuotaPeriod    Duration
}

func (u *UserDefaults) keys() []Key {
	return []Key{
		{Name: "max_connections", Value: &u.MaxConnections, Default: "0", Min: "0", Max: "10000000", Doc: "See `user.max_connections`."},
		{Name: "max_addresses", Value: &u.MaxAddresses, Default: "0", Min: "0", Max: "10000000", Doc: "See `user.max_addresses`."},
		{Name: "bandwidth.up", Value: &u.Up, Default: "0B/s", Min: "0B/s", Doc: "See `user.bandwidth.up`."},
		{Name: "bandwidth.down", Value: &u.Down, Default: "0B/s", Min: "0B/s", Doc: "See `user.bandwidth.down`."},
		{Name: "quota.bytes", Value: &u.QuotaBytes, Default: "0B", Doc: "See `user.quota.bytes`."},
		{Name: "quota.period", Value: &u.QuotaPeriod, Default: "720h", Min: "1s", Doc: "See `user.quota.period`."},
	}
}

// account is the defaults as an account of nobody.
func (u *UserDefaults) account() authsvc.Account {
	return authsvc.Account{
		MaxConnections: u.MaxConnections, MaxAddresses: u.MaxAddresses, Up: int64(u.Up), Down: int64(u.Down),
		QuotaBytes: int64(u.QuotaBytes), QuotaPeriod: u.QuotaPeriod.D(),
	}
}

// withDefaults gives a user's account the limits that its entry does not set.
func (c *Config) withDefaults(a *authsvc.Account, isSet func(key string) bool) {
	d := c.UserDefaults.account()
	for _, limit := range []struct {
		key string
		set func()
	}{
		{"max_connections", func() { a.MaxConnections = d.MaxConnections }},
		{"max_addresses", func() { a.MaxAddresses = d.MaxAddresses }},
		{"bandwidth.up", func() { a.Up = d.Up }},
		{"bandwidth.down", func() { a.Down = d.Down }},
		{"quota.bytes", func() { a.QuotaBytes = d.QuotaBytes }},
		{"quota.period", func() { a.QuotaPeriod = d.QuotaPeriod }},
	} {
		if !isSet(limit.key) {
			limit.set()
		}
	}
}

// Moment is a date and time with its zone.
type Moment struct{ time.Time }

// String is the moment as UnmarshalText reads it; "" for none.
func (m Moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339Nano)
}

// MarshalText is String.
func (m Moment) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads RFC 3339. A time without a zone is refused: whose clock
// it is of would be a guess.
func (m *Moment) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = Moment{}
		return nil
	}
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return errNotAccepted
	}
	*m = Moment{t}
	return nil
}

func (Moment) accepts() string {
	return `a date and time with its zone, such as 2026-12-01T00:00:00Z or 2026-12-01T00:00:00+01:00`
}
func (Moment) acceptsTime() {}

// Hours are hours of the week, see authsvc.ParseHours.
type Hours struct{ authsvc.Hours }

// MarshalText is the text that they were read from.
func (h Hours) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is authsvc.ParseHours.
func (h *Hours) UnmarshalText(text []byte) (err error) {
	h.Hours, err = authsvc.ParseHours(string(text))
	return err
}

func (Hours) accepts() string { return `hours such as "mon-fri 08:00-18:00 Europe/Berlin"` }

// validity is when the user may use the proxy.
func (u *User) validity() authsvc.Validity {
	v := authsvc.Validity{Disabled: u.Disabled, From: u.ValidFrom.Time, Until: u.ValidUntil.Time}
	for _, h := range u.Hours {
		v.Hours = append(v.Hours, h.Hours)
	}
	return v
}
