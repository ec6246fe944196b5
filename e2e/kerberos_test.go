package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
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
	port string
}

const realm = "TEST.EXAMPLE"

// etypes are the encryption types of a realm of now, the best first.
var etypes = []string{"aes256-cts-hmac-sha384-192", "aes256-cts-hmac-sha1-96", "aes128-cts-hmac-sha256-128", "aes128-cts-hmac-sha1-96"}

// startKDC makes a realm with the user alice (password "secret") and the
// service rcmd, and serves it on loopback.
func startKDC(t *testing.T) *kdc {
	t.Helper()
	server, util := program(t, "krb5kdc", "krb5-kdc"), program(t, "kdb5_util", "krb5-kdc")
	k := &kdc{t: t, dir: t.TempDir(), name: "localhost", port: freePort(t)}
	port := k.port
	k.permit(etypes...)
	k.settings("server.conf", etypes)
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
	cmd.Env = append(append(os.Environ(), k.etc...), "KRB5_CONFIG="+filepath.Join(k.dir, "server.conf"))
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

// permit sets the encryption types that clients ask for, MIT's and Heimdal's.
// The KDC has settings of its own: it looks at its file again and again.
func (k *kdc) permit(etypes ...string) { k.settings("krb5.conf", etypes) }

func (k *kdc) settings(name string, etypes []string) {
	k.t.Helper()
	k.write(name, fmt.Sprintf(`[libdefaults]
	default_realm = %[1]s
	dns_lookup_kdc = false
	dns_lookup_realm = false
	rdns = false
	dns_canonicalize_hostname = false
	udp_preference_limit = 1
	permitted_enctypes = %[3]s
	default_etypes = %[3]s
[realms]
	%[1]s = {
		kdc = 127.0.0.1:%[2]s
	}
[domain_realm]
	localhost = %[1]s
`, realm, k.port, strings.Join(etypes, " ")))
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
	cmd := k.gsscommand(client, proxy, service, level, to, bytes)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func (k *kdc) gsscommand(client, proxy, service, level string, to netip.AddrPort, bytes int, more ...string) *exec.Cmd {
	k.t.Helper()
	host, port, _ := net.SplitHostPort(proxy)
	args := []string{host, port, service + "@" + k.name, level, to.Addr().String(), strconv.Itoa(int(to.Port())), strconv.Itoa(bytes)}
	cmd := exec.CommandContext(k.t.Context(), client, append(args, more...)...)
	cmd.Env = append(os.Environ(), k.etc...)
	return cmd
}

// echoed is what the C client says of bytes that came back as they went, with
// their checksum, made here of what it is to send.
func echoed(level string, bytes int) string {
	sum := fnv.New64a()
	for at := range bytes {
		_, _ = sum.Write([]byte{byte(uint32(at*2654435761) >> 13)})
	}
	return fmt.Sprintf("level %s\nok %d %016x\n", level, bytes, sum.Sum64())
}

// heldTunnel is a C client that stopped in the middle of a transfer.
type heldTunnel struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	want string
}

// hold starts a C client, and returns when half of its bytes have come back.
func (k *kdc) hold(client, proxy, level string, to netip.AddrPort, bytes int) *heldTunnel {
	k.t.Helper()
	h := &heldTunnel{t: k.t, cmd: k.gsscommand(client, proxy, "rcmd", level, to, bytes, "hold"), want: echoed(level, bytes)}
	in, err1 := h.cmd.StdinPipe()
	out, err2 := h.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, h.cmd.Start()); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = h.cmd.Process.Kill(); _ = h.cmd.Wait() })
	h.in, h.out = in, bufio.NewReader(out)
	for _, want := range []string{"level " + level + "\n", "half\n"} {
		if got, err := h.out.ReadString('\n'); got != want {
			k.t.Fatalf("a tunnel to hold: %q, %v", got, err)
		}
	}
	return h
}

// release lets it send the rest, all of which has to come back.
func (h *heldTunnel) release() {
	h.t.Helper()
	_, _ = io.WriteString(h.in, "\n")
	rest, _ := io.ReadAll(h.out)
	if _, want, _ := strings.Cut(h.want, "\n"); string(rest) != want {
		h.t.Errorf("a tunnel that was open over it all: %q, want %q", rest, want)
	}
}

// reload sends SIGHUP, and waits until the settings are in force.
func (d *daemon) reload() {
	d.t.Helper()
	before := strings.Count(d.log(), `"msg":"reloaded"`)
	d.signal(syscall.SIGHUP)
	eventually(d.t, "the reload", func() bool { return strings.Count(d.log(), `"msg":"reloaded"`) > before })
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
		{"confidentiality", d.address, "rcmd", "2", echoed("2", 3_000_000), 0},
		{"integrity", d.address, "rcmd", "1", echoed("1", 3_000_000), 0},
		{"none asked for, integrity granted", d.address, "rcmd", "0", echoed("1", 3_000_000), 0},
		{"none", lenient, "rcmd", "0", echoed("0", 3_000_000), 0},
		{"as NEC did", lenient, "rcmd", "nec", echoed("0", 3_000_000), 0},
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
	if d.metric("cleversocks_bans_active") != "0" || d.settles(`cleversocks_auth_total{method="gssapi",outcome="failed"}`, "3") != "3" {
		t.Errorf("%s refused", d.metric(`cleversocks_auth_total{method="gssapi",outcome="failed"}`))
	}
}

// Both libraries, Heimdal's of which rotates its messages, with each encryption
// type of ticket and session, at both levels. Every round changes the service's
// key and replaces the keytab: tunnels that were opened with any of the keys
// before go on over all of that, and so do large transfers.
func TestKerberosLibraries(t *testing.T) {
	for _, library := range [][2]string{{"krb5-config.mit", "libkrb5-dev"}, {"krb5-config.heimdal", "heimdal-multidev"}} {
		t.Run(library[1], func(t *testing.T) {
			k := startKDC(t)
			client, echo := k.compile(library[0], library[1]), echoServer(t, "127.0.0.1:0")
			keytab := k.keytab("rcmd/localhost")
			d := start(t, "[auth.gssapi]\nkeytab = \""+keytab+"\"\n")
			var held []*heldTunnel
			for _, etype := range etypes {
				if err := os.Remove(keytab); err != nil {
					t.Fatal(err)
				}
				k.permit(etypes...)
				k.admin("ktadd -k " + keytab + " -e " + etype + ":normal rcmd/localhost")
				d.reload()
				k.permit(etype)
				k.login()
				for _, level := range []string{"1", "2"} {
					if out, status := k.gssclient(client, d.address, "rcmd", level, echo, 1_000_000); out != echoed(level, 1_000_000) || status != 0 {
						t.Errorf("%s: %q, status %d", etype, out, status)
					}
					held = append(held, k.hold(client, d.address, level, echo, 300_000))
				}
				_, ticket, _ := strings.Cut(k.run("", program(t, "klist", "krb5-user"), "-e"), "rcmd/localhost")
				if want := "Etype (skey, tkt): " + etype + ", " + etype; !strings.Contains(ticket, want) {
					t.Errorf("no %q in %s", want, ticket)
				}
			}
			for _, tunnel := range held {
				tunnel.release()
			}
			for _, level := range []string{"1", "2"} {
				if out, status := k.gssclient(client, d.address, "rcmd", level, echo, 40_000_000); out != echoed(level, 40_000_000) || status != 0 {
					t.Errorf("a large transfer: %q, status %d", out, status)
				}
			}
		})
	}
}

// A key is changed: a reload takes the keytab that has both, tickets for the
// old one go on, and so do tunnels. When the old key is gone its tickets are
// refused, with the reason; expired ones are as well. None of it is a guess.
func TestKerberosKeysChange(t *testing.T) {
	k := startKDC(t)
	client, echo := k.compile("krb5-config.mit", "libkrb5-dev"), echoServer(t, "127.0.0.1:0")
	keytab := k.keytab("rcmd/localhost")
	d := start(t, "[auth.gssapi]\nkeytab = \""+keytab+"\"\nclock_skew = \"3s\"\n")
	log := func(what string, status int) {
		t.Helper()
		if out, got := k.gssclient(client, d.address, "rcmd", "2", echo, 100_000); got != status {
			t.Fatalf("%s: %q, status %d, want %d", what, out, got, status)
		}
	}
	k.login()
	log("before", 0)
	k.keytab("rcmd/localhost") // the next version, in the same file
	d.reload()
	log("a ticket for the old key", 0)
	k.login() // with the new key
	log("a ticket for the new key", 0)
	k.run("", program(t, "kadmin.local", "krb5-kdc"), "-r", realm, "-q", "ktrem -k "+keytab+" rcmd/localhost old")
	d.reload()
	log("after the old key was removed", 0)
	if err := os.Remove(keytab); err != nil {
		t.Fatal(err)
	}
	k.keytab("rcmd/localhost")
	k.run("", program(t, "kadmin.local", "krb5-kdc"), "-r", realm, "-q", "ktrem -k "+keytab+" rcmd/localhost old")
	d.reload()
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
