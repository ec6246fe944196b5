package dist

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cleversocks/e2e/need"
)

// life is what an administrator does with a package: it is installed, and nothing
// starts; its service is started, as the shipped unit has it, with settings of the
// administrator's, and reloaded; the next version comes, takes over without a gap
// and leaves the settings alone; and it goes.
const life = `
fact "installed with" "$(stat -c '%U:%G %a' /etc/cleversocks/cleversocks.toml /etc/cleversocks /usr/bin/cleversocks | tr '\n' ' ')"
fact "after installing" "$(ctl is-active cleversocks.service)"
fact check "$(cleversocks check --config /etc/cleversocks/cleversocks.toml >/dev/null && echo passed)"
fact "man pages" "$(man -w cleversocks cleversocks.toml 2>/dev/null | tr '\n' ' ')"
sed -i 's/127.0.0.1:1080/127.0.0.1:21080/' /etc/cleversocks/cleversocks.toml
printf '[limits]\nhandshake_timeout = "10m"\n[log]\naccess_output = "/var/log/cleversocks/access.log"\n' >> /etc/cleversocks/cleversocks.toml # a client waits for the upgrade in it
ctl start cleversocks.service
greets serves 21080
fact user "$(stat -c %U /proc/$(main))"
fact "capabilities and filters" "$(sed -n 's/^\(CapBnd\|NoNewPrivs\|Seccomp\):\t/\1=/p' /proc/$(main)/status | tr '\n' ' ')"
status() { curl -s -m 20 http://127.0.0.1:9180/status; }
fact sandbox "$(status | tr -d ' \n' | grep -o '"sandbox":{[^}]*}')"
ctl reload cleversocks.service && fact reload ok
curl -s -m 20 --proxy socks5://127.0.0.1:21080 http://127.0.0.1:9/ # is refused, and recorded
logs() { ls /var/log/cleversocks | tr '\n' ' '; }
for i in $(seq 300); do [ -s /var/log/cleversocks/access.log ] && break; sleep 0.1; done
logrotate -f -s /tmp/rotated /etc/logrotate.d/cleversocks
for i in $(seq 300); do [ -e /var/log/cleversocks/access.log ] && break; sleep 0.1; done
fact "logs rotated" "$(logs)"
bash -c '
exec 3<>/dev/tcp/127.0.0.1/21080
printf "\5\1\0" >&3
echo "a client before: $(head -c 2 <&3 | od -An -tx1)"
until [ -e /run/upgraded ]; do sleep 0.1; done
printf "\5\1\0\1\177\0\0\1\0\11" >&3
echo "a client after: $(timeout 20 head -c 2 <&3 | od -An -tx1)"
' &
client=$!
next
says "the successor serves" 1
touch /run/upgraded
wait $client
for i in $(seq 300); do status | grep -q '"version": "1.3.0"' && break; sleep 0.1; done
fact "version in force" "$(status | grep -o '"version": "[^"]*"')"
shows restarts NRestarts
greets "serves on" 21080
fact "inherits" "$(status | grep -o '"inherited": true')"
fact "settings kept" "$(grep -c 127.0.0.1:21080 /etc/cleversocks/cleversocks.toml)"
`

var lived = map[string]string{
	"installed with":           "root:cleversocks 640 root:cleversocks 750 root:root 755",
	"after installing":         "inactive",
	"check":                    "passed",
	"man pages":                "/usr/share/man/man1/cleversocks.1.gz /usr/share/man/man5/cleversocks.toml.5.gz",
	"serves":                   "05 00",
	"user":                     "cleversocks",
	"capabilities and filters": "CapBnd=0000000000000000 NoNewPrivs=1 Seccomp=2",
	"reload":                   "ok",
	"logs rotated":             "access.log access.log.1",
	"a client before":          "05 00",
	"a client after":           "05 02", // block_private
	"version in force":         `"version": "1.3.0"`,
	"restarts":                 "0",
	"serves on":                "05 00",
	"inherits":                 `"inherited": true`,
	"settings kept":            "1",
	"removed, and stopped":     "inactive",
	"the program":              "gone",
}

// checkDeb is the life of a deb.
func checkDeb(t *testing.T, first, next string) {
	t.Helper()
	facts := inMachine(t, map[string]string{"first.deb": first, "next.deb": next}, `
export DEBIAN_FRONTEND=noninteractive
dpkg -i /first.deb >/dev/null
next() { dpkg -i --force-confdef --force-confold /next.deb >/dev/null; }
`+life+`
dpkg -r cleversocks >/dev/null
fact "removed, and stopped" "$(ctl is-active cleversocks.service)"
fact "the program" "$(test -e /usr/bin/cleversocks || echo gone)"
fact "removed settings" "$(test -e /etc/cleversocks/cleversocks.toml && echo kept)"
dpkg -P cleversocks >/dev/null
fact purged "$(ls -d /etc/cleversocks /var/lib/cleversocks /var/lib/private/cleversocks 2>&1 | grep -c 'No such file')"
fact "purged user" "$(getent passwd cleversocks >/dev/null || echo gone)"
`)
	hold(t, facts, lived)
	hold(t, facts, map[string]string{"removed settings": "kept", "purged": "3", "purged user": "gone"})
	confined(t, facts["sandbox"])
}

// confined holds what the status page says of a daemon under the shipped unit.
func confined(t *testing.T, sandbox string) {
	t.Helper()
	if !strings.Contains(sandbox, `"landlock":"files(version`) || !strings.Contains(sandbox, `"seccomp":true`) || !strings.Contains(sandbox, `"core_dumps":false`) {
		t.Errorf("the sandbox: %s", sandbox)
	}
}

// checkRPM is the life of an rpm, of which the second one is signed: files as they
// are listed, settings that were changed kept beside the new ones, and what it asks
// for is there on every system that has rpms. (A package "adduser" is not: Fedora
// refused it.)
func checkRPM(t *testing.T, first, next, public string) {
	t.Helper()
	need.Program(t, "rpm", "rpm")
	asks := strings.Fields(run(t, "", nil, "rpm", "-qp", "--requires", first))
	if !slices.Equal(asks, []string{"/usr/sbin/groupadd", "/usr/sbin/useradd"}) {
		t.Errorf("it asks for %q", asks)
	}
	facts := inMachine(t, map[string]string{"first.rpm": first, "next.rpm": next, "key": public}, `
RPM="rpm --dbpath /var/lib/rpm"
fact "signature of nobody known" "$($RPM -K /next.rpm | sed 's/.*rpm: //')"
rpmkeys --dbpath /var/lib/rpm --import /key
fact signature "$($RPM -K /next.rpm | sed 's/.*rpm: //')"
# Nothing of this machine is in the rpm's books: its dependencies are looked at outside.
$RPM --force-debian --nodeps -i /first.rpm
fact "as listed" "$($RPM -V --nodeps cleversocks && echo yes)"
next() { $RPM --force-debian --nodeps -U /next.rpm 2>&1 | sed 's/^/rpm /'; }
`+life+`
fact "new settings beside" "$(grep -c 'of the next version' /etc/cleversocks/cleversocks.toml.rpmnew)"
fact "changed" "$($RPM -V --nodeps cleversocks)"
fact "one is installed" "$($RPM -q cleversocks)"
$RPM -e --nodeps cleversocks 2>/dev/null
fact "removed, and stopped" "$(ctl is-active cleversocks.service)"
fact "the program" "$(test -e /usr/bin/cleversocks || echo gone)"
fact "settings saved" "$(grep -c 127.0.0.1:21080 /etc/cleversocks/cleversocks.toml.rpmsave)"
`)
	hold(t, facts, lived)
	hold(t, facts, map[string]string{
		"signature of nobody known": "digests SIGNATURES NOT OK", "signature": "digests signatures OK", "as listed": "yes",
		"new settings beside": "1", "one is installed": "cleversocks-1.3.0-1.x86_64", "settings saved": "1",
	})
	if changed := facts["changed"]; !strings.HasSuffix(changed, "c /etc/cleversocks/cleversocks.toml") {
		t.Errorf("changed since: %q", changed)
	}
	confined(t, facts["sandbox"])
}

// openpgp makes a key for the rpms: a file with the public half, and the secret.
func openpgp(t *testing.T) (public, secret string) {
	t.Helper()
	gpg := need.Program(t, "gpg", "gpg")
	home := t.TempDir()
	if err := os.Chmod(home, 0o700); err != nil { // or it warns
		t.Fatal(err)
	}
	env := []string{"GNUPGHOME=" + home}
	defer func() { _, _ = try(t, "", env, "gpgconf", "--kill", "all") }() // its agent
	run(t, "", env, gpg, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", "throw-away <release@example>", "ed25519", "sign", "1d")
	public = filepath.Join(t.TempDir(), "public")
	run(t, "", env, gpg, "--batch", "--armor", "--output", public, "--export")
	return public, run(t, "", env, gpg, "--batch", "--quiet", "--armor", "--export-secret-keys")
}
