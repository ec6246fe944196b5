package config

import (
	"strings"
	"testing"
)

// The words for collectors, and what is close to them, are no file names.
func TestCollector(t *testing.T) {
	for output, want := range map[string]Collector{
		"syslog":                                 {Network: "unix", Address: "/dev/log", Facility: 3},
		"syslog:":                                {Network: "unix", Address: "/dev/log", Facility: 3},
		"syslog:?facility=local7&format=rfc3164": {Network: "unix", Address: "/dev/log", Facility: 23, Old: true},
		"syslog:/run/log":                        {Network: "unix", Address: "/run/log", Facility: 3},
		"syslog:udp://192.0.2.5":                 {Network: "udp", Address: "192.0.2.5:514", Facility: 3},
		"syslog:tcp://[2001:db8::5]":             {Network: "tcp", Address: "[2001:db8::5]:601", Facility: 3},
		"syslog:tcp://logs.example:6514?facility=user": {Network: "tcp", Address: "logs.example:6514", Facility: 1},
		"journald": {Journald: true, Network: "unix", Address: "/run/systemd/journal/socket"},
		"journald:/run/systemd/journal.web/socket": {Journald: true, Network: "unix", Address: "/run/systemd/journal.web/socket"},
	} {
		l := Log{AccessOutput: output}
		if got, ok := l.Collector(); !ok || got != want {
			t.Errorf("%q: %+v, %v", output, got, ok)
		}
	}
	for _, output := range []string{
		"syslog:udp:host", "syslog:http://x", "syslog:udp://", "syslog:udp://host:0", "syslog:udp://host:99999", "syslog:udp://host/x",
		"syslog:udp://u:p@host", "syslog:?facility=x", "syslog:?format=5424", "syslog:?x=y", "journald:socket", "syslog:relative", "syslog:/" + strings.Repeat("x", 120),
	} {
		if _, err := parseCollector(output); err == nil {
			t.Errorf("%q is taken", output)
		}
		l := Log{AccessOutput: output}
		if _, ok := l.Collector(); ok {
			t.Errorf("%q is a collector", output)
		}
	}
	for _, output := range []string{"", "/var/log/syslog", "./syslog", "syslogs", "stderr"} {
		l := Log{AccessOutput: output}
		if _, ok := l.Collector(); ok {
			t.Errorf("%q is no file", output)
		}
	}
}
