package dist

import (
	"path/filepath"
	"testing"

	"cleversocks/e2e/need"
)

// TestUnderSystemd is a life of the shipped units, as they are, under systemd
// itself: sockets that it holds, an upgrade that it follows by MAINPID with its
// watchdog, a stop after which the socket's next client starts the service again,
// and a crash of a successor that it notices, as the successor is its child.
func TestUnderSystemd(t *testing.T) {
	t.Parallel()
	program := need.Plain(t)
	units := filepath.Join(root(t), "dist", "systemd")
	facts := inMachine(t, map[string]string{
		"usr/bin/cleversocks":                    program,
		"etc/cleversocks/cleversocks.toml":       configuration(t, "[[listener]]\naddress = 'systemd:proxy'\n[admin]\naddress = ''\n[state]\ndirectory = '/var/lib/cleversocks'\n"),
		"etc/systemd/system/cleversocks.service": filepath.Join(units, "cleversocks.service"),
		"etc/systemd/system/cleversocks.socket":  filepath.Join(units, "cleversocks.socket"),
	}, `
chmod 755 /etc/cleversocks; chmod 644 /etc/cleversocks/cleversocks.toml
mkdir -p /run/systemd/system/cleversocks.service.d
printf '[Service]\nWatchdogSec=2s\n' > /run/systemd/system/cleversocks.service.d/test.conf
ctl daemon-reload
ctl start cleversocks.socket
greets activated 1080
shows "first is" MainPID
fact user "$(stat -c %u /proc/$(main))"
ctl kill --kill-whom=main --signal=USR2 cleversocks.service
says "upgraded: " 1
says "predecessor has ended" 1
shows "second is" MainPID
fact "its parent" "$(cut -d' ' -f4 /proc/$(main)/stat)"
greets upgraded 1080
ctl reload cleversocks.service && fact reload ok
sleep 5 # more than two of the watchdog's intervals
shows "after watching" MainPID
shows restarts NRestarts
ctl stop cleversocks.service && shows stopped Result
greets "activated again" 1080
ctl kill --kill-whom=main --signal=USR2 cleversocks.service
says "upgraded: " 2
kill -9 $(main)
for i in $(seq 100); do [ "$(ctl show cleversocks.service -p NRestarts --value)" = 1 ] && break; sleep 0.1; done
shows "restarts after a crash" NRestarts
greets "after a crash" 1080
# As on a kernel without Landlock, or in a container that denies it.
printf '[Service]\nSystemCallFilter=~landlock_create_ruleset\n' > /run/systemd/system/cleversocks.service.d/test.conf
sed -i "s|address = ''|address = '127.0.0.1:9180'|" /etc/cleversocks/cleversocks.toml
ctl daemon-reload
ctl restart cleversocks.service
fact "without Landlock" "$(curl -s -m 20 http://127.0.0.1:9180/status | tr -d ' \n' | grep -o '"sandbox":{[^}]*}')"
`)
	hold(t, facts, map[string]string{
		"activated": "05 00", "its parent": "1", "upgraded": "05 00", "reload": "ok", "after watching": facts["second is"], "restarts": "0",
		"stopped": "success", "activated again": "05 00", "restarts after a crash": "1", "after a crash": "05 00",
		"without Landlock": `"sandbox":{"landlock":"off","seccomp":true,"core_dumps":false}`,
	})
	if facts["first is"] == facts["second is"] {
		t.Error("the main process is the same after an upgrade")
	}
	if facts["user"] == "0" {
		t.Error("it runs as root")
	}
}
