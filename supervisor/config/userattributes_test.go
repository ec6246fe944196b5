package config

import (
	"strings"
	"testing"
	"time"
)

// What stands behind a hash in the users file is a [[user]] in one line: read,
// judged and written again it is the same.
func TestAttributes(t *testing.T) {
	text := `groups = ['staff'], max_connections = 5, bandwidth = {up = '1MiB/s'}, quota = {bytes = '1GiB'}, valid_until = 2026-12-01T00:00:00Z, hours = ['mon-fri 08:00-18:00 Europe/Berlin'], note = 'till "Xmas" # of 26', x-ticket = 'AB-7'`
	a, err := ParseAttributes(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAttributes(a.String())
	if err != nil || again.String() != a.String() {
		t.Errorf("%v: %s", err, a)
	}
	for _, part := range []string{"note = 'till \"Xmas\" # of 26'", "x-ticket = 'AB-7'", "quota = {bytes = '1GiB'}", "valid_until = 2026-12-01T00:00:00Z"} {
		if !strings.Contains(a.String(), part) {
			t.Errorf("%s is not in %s", part, a)
		}
	}
	c := &Config{UserDefaults: UserDefaults{MaxConnections: 9, MaxAddresses: 3, Up: 7, QuotaPeriod: Duration(720 * time.Hour)}}
	account, err := c.account(text)
	if err != nil {
		t.Fatal(err)
	}
	if account.MaxConnections != 5 || account.MaxAddresses != 3 || account.Up != 1<<20 || account.QuotaBytes != 1<<30 || account.QuotaPeriod != 720*time.Hour ||
		account.Groups[0] != "staff" || len(account.Validity.Hours) != 1 || account.Note != `till "Xmas" # of 26` {
		t.Errorf("%+v", account)
	}
	if a, err := c.account("max_connections = 0"); err != nil || a.MaxConnections != 0 || a.MaxAddresses != 3 {
		t.Errorf("0 lifts a default: %+v, %v", a, err)
	}
}

func TestWrongAttributes(t *testing.T) {
	for text, want := range map[string]string{
		"valid_untli = 2026-12-01T00:00:00Z":       "valid_untli: unknown key; did you mean valid_until?",
		"max_connections = 5 } #":                  "is not a list",
		"max_connections = 5 }, {":                 "is not a list",
		"max_connections":                          "is not a list",
		"max_connections = 5, max_connections = 6": "is not a list",
		"max_connections = '5'":                    "max_connections: must be an integer",
		"password = 'x'":                           "password: unknown key",
		"disabled = true":                          "disabled: unknown key; in a users file \"!\" in front",
		"from = []":                                "from: is an empty list",
		"hours = ['always']":                       "hours: element 1",
		"quota = 5":                                "quota: must be a table",
		"valid_until = 2026-12-01T00:00:00":        "valid_until: must be a date and time with its zone",
		"valid_from = 2026-12-01T00:00:00Z, valid_until = 2026-11-01T00:00:00Z": "valid_until: is not after valid_from",
	} {
		a, err := ParseAttributes(text)
		if err == nil {
			err = a.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
