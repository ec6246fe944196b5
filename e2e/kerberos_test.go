package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kdc is MIT's, with a realm of its own that nothing is left of.
type kdc struct {
	t    *testing.T
	dir  string
	etc  []string // the environment of everything that speaks Kerberos
	name string   // of the proxy's host
}

const realm = "TEST.EXAMPLE"

// startKDC makes a realm with the user alice (password "secret") and the
// service rcmd, and serves it on loopback.
func startKDC(t *testing.T) *kdc {
	t.Helper()
	server, util := program(t, "krb5kdc", "krb5-kdc"), program(t, "kdb5_util", "krb5-kdc")
	k := &kdc{t: t, dir: t.TempDir(), name: "localhost"}
	port := freePort(t)
	k.write("krb5.conf", fmt.Sprintf(`[libdefaults]
	default_realm = %[1]s
	dns_lookup_kdc = false
	dns_lookup_realm = false
	rdns = false
	dns_canonicalize_hostname = false
	udp_preference_limit = 1
	permitted_enctypes = aes256-cts-hmac-sha384-192 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha256-128 aes128-cts-hmac-sha1-96
[realms]
	%[1]s = {
		kdc = 127.0.0.1:%[2]s
	}
[domain_realm]
	localhost = %[1]s
`, realm, port))
	k.write("kdc.conf", fmt.Sprintf(`[realms]
	%s = {
		database_name = %s/principal
		key_stash_file = %[2]s/stash
		acl_file = %[2]s/acl
		kdc_listen = 127.0.0.1:%[3]s
		kdc_tcp_listen = 127.0.0.1:%[3]s
		supported_enctypes = aes256-cts-hmac-sha384-192:normal aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha256-128:normal aes128-cts-hmac-sha1-96:normal
	}
`, realm, k.dir, port))
	k.etc = []string{
		"KRB5_CONFIG=" + filepath.Join(k.dir, "krb5.conf"), "KRB5_KDC_PROFILE=" + filepath.Join(k.dir, "kdc.conf"),
		"KRB5CCNAME=" + filepath.Join(k.dir, "cc"), "KRB5RCACHETYPE=none",
	}
	k.run("", util, "create", "-s", "-r", realm, "-P", "master")
	k.admin("addprinc -pw secret alice")
	k.admin("addprinc -randkey rcmd/localhost")
	k.admin("addprinc -randkey HTTP/localhost")
	k.admin("addprinc -randkey host/localhost")
	cmd := exec.CommandContext(t.Context(), server, "-n")
	cmd.Env = append(os.Environ(), k.etc...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "the KDC answers", func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return k
}

func (k *kdc) write(name, text string) string {
	k.t.Helper()
	path := filepath.Join(k.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return path
}

func (k *kdc) run(stdin, name string, args ...string) string {
	k.t.Helper()
	cmd := exec.CommandContext(k.t.Context(), name, args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), k.etc...), strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		k.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (k *kdc) admin(query string) {
	k.t.Helper()
	k.run("", program(k.t, "kadmin.local", "krb5-kdc"), "-r", realm, "-q", query)
}

// keytab adds new keys of services to the file.
func (k *kdc) keytab(services ...string) string {
	k.t.Helper()
	path := filepath.Join(k.dir, "keytab")
	for _, s := range services {
		k.admin("ktadd -k " + path + " " + s)
	}
	return path
}

// login gets alice a ticket, with options of kinit.
func (k *kdc) login(options ...string) {
	k.t.Helper()
	k.run("secret\n", program(k.t, "kinit", "krb5-user"), append(options, "alice")...)
}

// compile makes the C client, on the library whose program tells its flags.
func (k *kdc) compile(config, debianPackage string) string {
	k.t.Helper()
	flags := strings.Fields(k.run("", program(k.t, config, debianPackage), "--cflags", "--libs", "gssapi"))
	path := filepath.Join(k.dir, config+"-client")
	k.run("", program(k.t, "gcc", "gcc"), append([]string{"-Wall", "-o", path, "testdata/gssclient.c"}, flags...)...)
	return path
}

// gssclient runs the C client and returns what it says, and its exit status.
func (k *kdc) gssclient(client, proxy, service, level string, to netip.AddrPort, bytes int) (string, int) {
	k.t.Helper()
	host, port, _ := net.SplitHostPort(proxy)
	cmd := exec.CommandContext(k.t.Context(), client, host, port, service+"@"+k.name, level, to.Addr().String(), strconv.Itoa(int(to.Port())), strconv.Itoa(bytes))
	cmd.Env = append(os.Environ(), k.etc...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// A client on MIT's library logs in, and everything after that is protected as
// it asked for: three megabytes in messages of all sizes come back as they went.
func TestKerberosWithMIT(t *testing.T) {
	k := startKDC(t)
	client, echo := k.compile("krb5-config.mit", "libkrb5-dev"), echoServer(t, "127.0.0.1:0")
	keytab := k.keytab("rcmd/localhost")
	d := start(t, `
[auth.gssapi]
keytab = "`+keytab+`"
[[listener]]
address = "127.0.0.1:0"
[[listener]]
address = "127.0.0.1:0"
gssapi_protection = ["none", "integrity"]
gssapi_nec = true
`)
	lenient := ""
	d.find("of the second listener", func(l line) bool {
		if l["msg"] == "proxy listens" && l.text("address") != d.address {
			lenient = l.text("address")
		}
		return lenient != ""
	})
	k.login()
	for _, tt := range []struct {
		name, proxy, service, level, want string
		status                            int
	}{
		{"confidentiality", d.address, "rcmd", "2", "level 2\nok 3000000\n", 0},
		{"integrity", d.address, "rcmd", "1", "level 1\nok 3000000\n", 0},
		{"none asked for, integrity granted", d.address, "rcmd", "0", "level 1\nok 3000000\n", 0},
		{"none", lenient, "rcmd", "0", "level 0\nok 3000000\n", 0},
		{"as NEC did", lenient, "rcmd", "nec", "level 0\nok 3000000\n", 0},
		{"more than is allowed", lenient, "rcmd", "2", "refused\n", 3},
		{"as NEC did, where it is not allowed", d.address, "rcmd", "nec", "refused\n", 3},
		{"a ticket for another service", d.address, "host", "2", "refused\n", 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, status := k.gssclient(client, tt.proxy, tt.service, tt.level, echo, 3_000_000)
			if out != tt.want || status != tt.status {
				t.Errorf("%q, status %d; want %q, %d", out, status, tt.want, tt.status)
			}
		})
	}
	record := d.record(echo.String())
	if record.text("user") != "alice" || record.text("auth") != "gssapi" || record.text("cause") != "client_closed" {
		t.Errorf("%v", record)
	}
	for _, reason := range []string{"protection", "service"} {
		d.find("that refuses for "+reason, func(l line) bool { return l["msg"] == "authentication refused" && l["reason"] == reason })
	}
	if d.metric("cleversocks_bans_active") != "0" || d.metric(`cleversocks_auth_total{method="gssapi",outcome="failed"}`) != "3" {
		t.Errorf("%s refused", d.metric(`cleversocks_auth_total{method="gssapi",outcome="failed"}`))
	}
}

// The same client on Heimdal's library, which rotates its messages, with each
// encryption type.
func TestKerberosWithHeimdal(t *testing.T) {
	k := startKDC(t)
	client, echo := k.compile("krb5-config.heimdal", "heimdal-multidev"), echoServer(t, "127.0.0.1:0")
	keytab := k.keytab("rcmd/localhost")
	d := start(t, "[auth.gssapi]\nkeytab = \""+keytab+"\"\n")
	k.login()
	for _, level := range []string{"1", "2"} {
		want := "level " + level + "\nok 1000000\n"
		if out, status := k.gssclient(client, d.address, "rcmd", level, echo, 1_000_000); out != want || status != 0 {
			t.Errorf("%q, status %d; want %q", out, status, want)
		}
	}
}

// A key is changed: a reload takes the keytab that has both, tickets for the
// old one go on, and so do tunnels. When the old key is gone its tickets are
// refused, with the reason; expired ones are as well. None of it is a guess.
func TestKerberosKeysChange(t *testing.T) {
	k := startKDC(t)
	client, echo := k.compile("krb5-config.mit", "libkrb5-dev"), echoServer(t, "127.0.0.1:0")
	keytab := k.keytab("rcmd/localhost")
	d := start(t, "[auth.gssapi]\nkeytab = \""+keytab+"\"\nclock_skew = \"1s\"\n")
	log := func(what string, status int) {
		t.Helper()
		if out, got := k.gssclient(client, d.address, "rcmd", "2", echo, 100_000); got != status {
			t.Fatalf("%s: %q, status %d, want %d", what, out, got, status)
		}
	}
	k.login()
	log("before", 0)
	k.keytab("rcmd/localhost") // the next version, in the same file
	reloads := 0
	reload := func() {
		t.Helper()
		reloads++
		d.signal(syscall.SIGHUP)
		eventually(t, "the reload", func() bool { return strings.Count(d.log(), `"msg":"reloaded"`) == reloads })
	}
	reload()
	log("a ticket for the old key", 0)
	k.login() // with the new key
	log("a ticket for the new key", 0)
	k.run("", program(t, "kadmin.local", "krb5-kdc"), "-r", realm, "-q", "ktrem -k "+keytab+" rcmd/localhost old")
	reload()
	log("after the old key was removed", 0)
	if err := os.Remove(keytab); err != nil {
		t.Fatal(err)
	}
	k.keytab("rcmd/localhost")
	k.run("", program(t, "kadmin.local", "krb5-kdc"), "-r", realm, "-q", "ktrem -k "+keytab+" rcmd/localhost old")
	reload()
	log("a ticket for a key that is gone", 3)
	d.find("for the key", func(l line) bool { return l["msg"] == "authentication refused" && l["reason"] == "key" })
	k.login("-l", "2s")
	log("a short ticket", 0)
	eventually(t, "the ticket is over", func() bool {
		_, status := k.gssclient(client, d.address, "rcmd", "2", echo, 1)
		return status != 0
	})
	out, _ := run(t, nil, binary, "check", "--config", writeFile(t, "c.toml", "[auth.gssapi]\nkeytab = \""+keytab+"\"\n"))
	if !strings.Contains(string(out), "rcmd/localhost@"+realm+", version") || !strings.Contains(string(out), "aes256-cts-hmac-sha384-192") {
		t.Errorf("check prints %s", out)
	}
	if d.metric("cleversocks_bans_active") != "0" {
		t.Error("banned")
	}
}

// curl logs in to an HTTP proxy by ticket: a tunnel, and plain requests.
// Debian's can do that; by GSSAPI on SOCKS5 it fails in its own library.
func TestNegotiateWithCurl(t *testing.T) {
	k := startKDC(t)
	web := origin(t, "127.0.0.1:0")
	keytab := k.keytab("HTTP/localhost")
	d := start(t, `
[auth.gssapi]
keytab = "`+keytab+`"
users = ["alice@`+realm+` = ali"]
[[acl.rule]]
action = "allow"
users = ["ali"]
[acl]
default = "deny"
block_private = false
[[listener]]
address = "127.0.0.1:0"
protocols = ["http"]
`)
	k.login()
	proxy := strings.Replace(d.address, "127.0.0.1", "localhost", 1)
	for name, options := range map[string][]string{
		"plain":                        {web.URL},
		"two requests, one connection": {web.URL, web.URL},
		"a tunnel":                     {"--proxytunnel", web.URL},
		"asked first":                  {"--proxy-anyauth", web.URL},
	} {
		out, err := run(t, k.etc, program(t, "curl", "curl"), append([]string{"-sS", "-f", "--proxy-negotiate", "-U", ":", "--proxy", "http://" + proxy}, options...)...)
		if err != nil || !strings.Contains(out, "hello from") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	if out, err := run(t, nil, program(t, "curl", "curl"), "-sS", "-f", "--proxy", "http://"+proxy, web.URL); err == nil {
		t.Errorf("without a ticket: %q", out)
	}
	d.find("of a tunnel of ali's", func(l line) bool { return l["msg"] == "connection" && l["user"] == "ali" && l["auth"] == "gssapi" })
	if d.metric("cleversocks_bans_active") != "0" {
		t.Error("banned")
	}
}
