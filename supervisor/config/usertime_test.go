package config

import (
	"strings"
	"testing"
	"time"
)

func TestUserTimesAndDefaults(t *testing.T) {
	cfg, err := load(t, `[auth]
allow_plain_passwords = true
[user_defaults]
max_connections = 7
bandwidth = { up = "1MiB/s" }
[[user]]
name = "alice"
password = "x"
max_connections = 0
valid_from = 2026-12-01T00:00:00+01:00
valid_until = "2026-12-31T00:00:00Z"
hours = ["mon-fri 08:00-18:00 Europe/Berlin"]
`, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := cfg.UsersOptions(nil, nil)
	a := o.Users[0]
	if a.MaxConnections != 0 || a.Up != 1<<20 || o.Defaults.MaxConnections != 7 {
		t.Errorf("limits %+v", a.Account)
	}
	if !a.Validity.From.Equal(time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)) || a.Validity.Until.IsZero() || len(a.Validity.Hours) != 1 {
		t.Errorf("validity %+v", a.Validity)
	}
	for text, want := range map[string]string{
		"valid_from = 2026-12-01T00:00:00": "with its zone",
		"valid_until = 2026-12-01":         "with its zone",
		"hours = []":                       "empty list",
		"hours = [\"mon 8-9\"]":            "no span",
		"valid_from = 2026-12-02T00:00:00Z\nvalid_until = 2026-12-01T00:00:00Z": "not after",
	} {
		_, err := load(t, "[auth]\nallow_plain_passwords = true\n[[user]]\nname = \"a\"\npassword = \"x\"\n"+text+"\n", nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
