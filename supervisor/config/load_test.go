package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// load reads a file with text, an environment and arguments.
func load(t *testing.T, file string, environ, args []string) (*Config, error) {
	t.Helper()
	s := Sources{Environ: environ, Flags: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	if file != "" {
		s.File = filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(s.File, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	RegisterFlags(s.Flags, nil)
	if err := s.Flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return NewLoader(s).Load(t.Context())
}

func TestLayers(t *testing.T) {
	const file = "[log]\nlevel = \"warn\"\n[relay]\nkeepalive.count = 9\n[[listener]]\naddress = \"127.0.0.1:7\"\n"
	for _, tt := range []struct {
		name    string
		file    string
		environ []string
		args    []string
		level   string
		count   int
		listen  string
	}{
		{name: "defaults", level: "info", count: 4, listen: "127.0.0.1:1080"},
		{name: "file", file: file, level: "warn", count: 9, listen: "127.0.0.1:7"},
		{
			name: "environment over file", file: file, environ: []string{"CLEVERSOCKS_LOG__LEVEL=debug", "CLEVERSOCKS_RELAY__KEEPALIVE__COUNT=5"},
			level: "debug", count: 5, listen: "127.0.0.1:7",
		},
		{
			name: "flag over environment", file: file, environ: []string{"CLEVERSOCKS_LOG__LEVEL=debug"}, args: []string{"--log-level=trace"},
			level: "trace", count: 9, listen: "127.0.0.1:7",
		},
		{name: "flags replace listeners", file: file, args: []string{"-p", "8"}, level: "warn", count: 9, listen: "127.0.0.1:8"},
		{name: "address alone", args: []string{"-i", "::"}, level: "info", count: 4, listen: "[::]:1080"},
		{name: "IPv4 stays IPv4", args: []string{"-i0.0.0.0"}, level: "info", count: 4, listen: "0.0.0.0:1080"},
		{name: "quiet", args: []string{"-q"}, level: "error", count: 4, listen: "127.0.0.1:1080"},
		{name: "quiet yields to a level", args: []string{"--log-level=debug", "-q"}, level: "debug", count: 4, listen: "127.0.0.1:1080"},
		{
			name: "not ours", environ: []string{"CLEVERSOCKS_LOGLEVEL=x", "CLEVERSOCKS_PORT=tcp://1", "OTHER_LOG__LEVEL=x"},
			level: "info", count: 4, listen: "127.0.0.1:1080",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, tt.file, tt.environ, tt.args)
			if err != nil {
				t.Fatal(err)
			}
			got := []string{c.Log.Level, fmt.Sprint(c.Relay.Keepalive.Count), c.Listeners[0].Address.String(), fmt.Sprint(len(c.Listeners))}
			if d := cmp.Diff([]string{tt.level, fmt.Sprint(tt.count), tt.listen, "1"}, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	c, err := load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Admin.Configured || c.Admin.Address.String() != "127.0.0.1:9180" {
		t.Errorf("admin: %+v", c.Admin)
	}
	if c.Auth.Required || c.Auth.Credential != nil || len(c.Warnings) > 0 {
		t.Errorf("auth: %+v, warnings %q", c.Auth, c.Warnings)
	}
	if c.Limits.IdleTimeout.D() != 15*time.Minute || c.Relay.BufferSize != 16<<10 || !c.Relay.NoDelay {
		t.Errorf("limits %+v, relay %+v", c.Limits, c.Relay)
	}
	if c, err = load(t, "", []string{"CLEVERSOCKS_ADMIN__ADDRESS=127.0.0.1:9180"}, nil); err != nil || !c.Admin.Configured {
		t.Errorf("the admin address was configured: %v", err)
	}
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	raw := write("raw", "\xff\x00:y\n\n")
	both := write("both", "jane:se:cret\r\n")
	hollow, nameOnly := write("hollow", "\n"), write("name-only", "jane:\n")
	passwordOnly, colon := write("password-only", ":pw\n"), write("colon", ":\n")
	for _, tt := range []struct {
		name, file string
		environ    []string
		args       []string
		want       string // "user:password", "" for none
		err        string
	}{
		{name: "none"},
		{name: "flags", args: []string{"-u", "joe", "-P", "x"}, want: "joe:x"},
		{name: "empty is configured", file: "[auth]\nuser=''\npassword=''", want: ":"},
		{name: "environment", environ: []string{"CLEVERSOCKS_AUTH__USER=joe", "CLEVERSOCKS_AUTH__PASSWORD=a,b"}, want: "joe:a,b"},
		{name: "empty environment fails closed", environ: []string{"CLEVERSOCKS_AUTH__USER=", "CLEVERSOCKS_AUTH__PASSWORD="}, want: ":"},
		{name: "raw bytes", args: []string{"-u", "joe", "--password-file", raw}, want: "joe:\xff\x00:y\n"},
		{name: "credentials", args: []string{"--credentials-file", both}, want: "jane:se:cret"},
		{name: "all keys listed", file: "[auth]\nuser=''\npassword=''\npassword_file=''\ncredentials_file='" + both + "'", want: "jane:se:cret"},
		{name: "flags over the file", file: "[auth]\ncredentials_file='" + both + "'", args: []string{"-u", "joe", "-P", "x"}, want: "joe:x"},
		{name: "two of one layer", file: "[auth]\nuser='a'\npassword='x'\npassword_file='" + raw + "'", err: "contradicts"},
		// A user without a password was let in with the empty one.
		{name: "password not filled in", args: []string{"-u", "joe"}, environ: []string{"CLEVERSOCKS_AUTH__PASSWORD="}, err: "environment CLEVERSOCKS_AUTH__PASSWORD: auth.password: the password is empty"},
		{name: "an empty password", file: "[auth]\nuser='joe'\npassword=''", err: "the password is empty"},
		{name: "an empty password file", args: []string{"-u", "joe", "--password-file", hollow}, err: "the password is empty"},
		{name: "nothing behind the colon", args: []string{"--credentials-file", nameOnly}, err: "the password is empty"},
		{name: "nothing before the colon", args: []string{"--credentials-file", passwordOnly}, err: "the user name is empty"},
		{name: "nothing but the colon", args: []string{"--credentials-file", colon}, err: "the user name is empty"},
		{name: "a hash as the password", args: []string{"-u", "joe"}, environ: []string{"CLEVERSOCKS_AUTH__PASSWORD=$6$salt$hash"}, err: "SHA-512 crypt"},
		{name: "an empty password of a [[user]]", file: "[[user]]\nname='joe'\npassword=''", err: "user[0].password: is empty"},
		{name: "more than the state file holds", file: "[auth]\nuser='a'\npassword='x'\n[auth.once]\nenabled=true\nmax=500000\n[state]\ndirectory='/'", err: "auth.once.max: must be at most"},
		{name: "no password", args: []string{"-u", "joe"}, err: "needs a password"},
		{name: "no user", args: []string{"-P", "x"}, err: "needs a user"},
		{name: "nobody", file: "[auth]\nrequired = true", err: "c.toml:2:1: auth.required: nobody could log in"},
		{name: "too long", args: []string{"-u", strings.Repeat("u", 256), "-P", strings.Repeat("p", 256)}, err: "at most 255"},
		{name: "no such file", args: []string{"-u", "joe", "--password-file", dir + "/none"}, err: "no such file"},
		{name: "a directory", args: []string{"-u", "joe", "--password-file", dir}, err: "not a regular file"},
		{name: "not a string", file: "[auth]\nuser='a'\npassword=123456", err: "c.toml:3:1: auth.password: must be a string"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, tt.file, tt.environ, tt.args)
			if tt.err != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if cred := c.Auth.Credential; cred != nil {
				got = cred.User + ":" + cred.Password.Reveal()
			}
			if got != tt.want || c.Auth.Required != (tt.want != "") {
				t.Errorf("got %q, required %t; want %q", got, c.Auth.Required, tt.want)
			}
		})
	}
}

// TestSecretsAreMasked prints a configuration in every way there is.
func TestSecretsAreMasked(t *testing.T) {
	const secret = "correct horse"
	c, err := load(t, "", nil, []string{"-u", "joe", "-P", secret})
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log, toml strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "password", c.Auth.Password, "config", c)
	if err := c.WriteTOML(&toml, nil, Masked); err != nil {
		t.Fatal(err)
	}
	hidden := struct{ inner Secret }{c.Auth.Password}
	for name, text := range map[string]string{
		"%v": fmt.Sprintf("%v %v", c, hidden), "%+v": fmt.Sprintf("%+v %+v", c, hidden), "%#v": fmt.Sprintf("%#v %#v", c, hidden),
		"%s": fmt.Sprintf("%s", []any{c.Auth.Password}), "%q": fmt.Sprintf("%q", c.Auth.Password), "%x": fmt.Sprintf("%x", c.Auth.Password),
		"json": string(asJSON), "log": log.String(), "toml": toml.String(), "warnings": fmt.Sprint(c.Warnings),
	} {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s shows the secret: %s", name, text)
		}
	}
	if c.Auth.Password.Reveal() != secret {
		t.Errorf("got %q", c.Auth.Password.Reveal())
	}
}

// CLEVERSOCKS_AUTHREQUIRED, without its underscores, was ignored in silence, and
// the proxy was open.
func TestMisspeltVariables(t *testing.T) {
	for name, want := range map[string]string{
		"CLEVERSOCKS_AUTHREQUIRED":      "write CLEVERSOCKS_AUTH__REQUIRED",
		"CLEVERSOCKS_AUTH_REQUIERD":     "write CLEVERSOCKS_AUTH__REQUIRED",
		"cleversocks_auth__required":    "write CLEVERSOCKS_AUTH__REQUIRED",
		"CLEVERSOCK_AUTH__REQUIRED":     "write CLEVERSOCKS_AUTH__REQUIRED",
		"CLEVERSOCKS_ACLDEFAULT":        "write CLEVERSOCKS_ACL__DEFAULT",
		"CLEVERSOCKS_LOGLEVEL":          "is ignored: the setting's variable is CLEVERSOCKS_LOG__LEVEL",
		"CLEVERSOCKS_PASSWORD":          "is ignored: the setting's variable is CLEVERSOCKS_AUTH__PASSWORD",
		"CLEVERSOCKS_CONFIG":            "is ignored: --config names the file",
		"CLEVERSOCKS_PORT":              "", // Kubernetes and others have these for a service of this name
		"CLEVERSOCKS_PORT_1080_TCP":     "",
		"CLEVERSOCKS_SERVICE_HOST":      "",
		"CLEVERSOCKS_SERVICE_PORT_HTTP": "",
		"CLEVERSOCKS_VERSION":           "",
		"CLEVERSOCKS_IMAGE":             "",
	} {
		c, err := load(t, "", []string{name + "=false"}, nil)
		said := fmt.Sprint(err)
		if err == nil {
			said = strings.Join(c.Warnings, "\n")
		}
		if want == "" && said != "" || !strings.Contains(said, want) || (err != nil) != strings.HasPrefix(want, "write") {
			t.Errorf("%s: %q (%v), want %q", name, said, err, want)
		}
	}
}

// What check prints was refused, since a masked password was a comment and the
// user had none. A mask in the file is a secret that nobody knows: the settings
// load, whoever had to log in still has to, and nobody can by typing the mask.
func TestMasksAreNobodysSecret(t *testing.T) {
	const hash = "$2y$10$CwTycUXWue0Thq9StjUM0uJ8D6x6zB6n2T3FjvV5cXH2mVRzJ1yGa"
	c, err := load(t, "[auth]\nuser='joe'\npassword='hunter2'\n[[user]]\nname='alice'\npassword_hash='"+hash+"'\n[shared_state]\nurl='redis://u:hunter2@h'\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var toml strings.Builder
	if err := c.WriteTOML(&toml, nil, Masked); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(toml.String(), "hunter2") || strings.Contains(toml.String(), hash) {
		t.Fatal(toml.String())
	}
	again, err := load(t, toml.String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Auth.Required || again.Auth.Credential.User != "joe" {
		t.Errorf("required %t, credential %+v", again.Auth.Required, again.Auth.Credential)
	}
	if again.Auth.Credential.Password.Reveal() == masked {
		t.Error("the mask is a password")
	}
	if got := again.Users[0].PasswordHash.Reveal(); got == masked || got == hash {
		t.Errorf("the hash is %q", got)
	}
	for _, key := range []string{"auth.password", "user[0].password_hash", "shared_state.url"} {
		if !slices.ContainsFunc(again.Warnings, func(w string) bool { return strings.Contains(w, key+" is a mask") }) {
			t.Errorf("no word of %s in %q", key, again.Warnings)
		}
	}
	// On the command line it may be what somebody chose.
	c, err = load(t, "", nil, []string{"-u", "joe", "-P", masked})
	if err != nil || c.Auth.Credential.Password.Reveal() != masked {
		t.Errorf("-P: %v", err)
	}
	toml.Reset()
	if err := again.WriteTOML(&toml, nil, Revealed); err != nil || strings.Contains(toml.String(), masked+`"`) {
		t.Errorf("%v: %s", err, toml.String())
	}
}

// Standard input can be read once: a reload goes on with what came, and says so.
func TestConfigFromStandardInput(t *testing.T) {
	loader := NewLoader(Sources{File: Stdin, Stdin: strings.NewReader("[log]\nlevel = 'debug'\n")})
	for i := range 2 {
		c, err := loader.Load(t.Context())
		if err != nil || c.Log.Level != "debug" || len(c.Files()) != 0 {
			t.Fatal(err, c)
		}
		if said := strings.Contains(fmt.Sprint(c.Warnings), "standard input, which cannot be read again"); said != (i > 0) {
			t.Errorf("load %d: warnings %q", i, c.Warnings)
		}
	}
	if got := string(loader.Piped()); !strings.Contains(got, "debug") { // for a successor
		t.Errorf("piped %q", got)
	}
	for text, want := range map[string]string{
		" \n": "standard input: nothing came", "# defaults": "", "[log]\nlevel = 3": "standard input:2:1: log.level",
	} {
		_, err := NewLoader(Sources{File: Stdin, Stdin: strings.NewReader(text)}).Load(t.Context())
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func withoutOrigins(toml string) []string {
	var out []string
	for line := range strings.Lines(toml) {
		out = append(out, strings.TrimRight(strings.SplitN(line, "  # ", 2)[0], "\n"))
	}
	return out
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		dst interface {
			UnmarshalText([]byte) error
			String() string
		}
		in, want string // want "": refused
	}{
		{new(Duration), "90s", "1m30s"},
		{new(Duration), "60m", "1h"},
		{new(Duration), "0s", "0s"},
		{new(Duration), "-1s", ""},
		{new(Duration), "30", ""},
		{new(Size), "16KiB", "16KiB"},
		{new(Size), "1MB", "1000000B"},
		{new(Size), "4096", "4KiB"},
		{new(Size), "-1", ""},
		{new(Size), "9999999TiB", ""},
		{new(Size), "1.5KiB", ""},
		{new(Rate), "50MiB/s", "50MiB/s"},
		{new(Rate), "50MiB", ""},
		{new(ListenAddress), "[::]:0", "[::]:0"},
		{new(ListenAddress), "127.0.0.1.5:1", ""},
		{new(ListenAddress), "localhost:65536", ""},
		{new(IP), "::ffff:192.0.2.1", "192.0.2.1"},
	} {
		err := tt.dst.UnmarshalText([]byte(tt.in))
		if (err != nil) != (tt.want == "") || err == nil && tt.dst.String() != tt.want {
			t.Errorf("%T %q: got %q, %v; want %q", tt.dst, tt.in, tt.dst, err, tt.want)
		}
	}
}

// FuzzFile: whatever the file holds, loading ends, with a valid configuration
// or with problems that have a place.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "[log]\nlevel='debug'", "[[listener]]\naddress='127.0.0.1:1'", "listener=[{address='::1'}]", "log=3",
		"'log.level'='x'", "[listener]\nx=1", "[relay]\nkeepalive={idle='1s',x={y=[{z=1}]}}", "[auth]\nrequired=true\nuser=1979-05-27",
		"[[listener]]\n[listener.tls]\na=1", "[[log]]\nlevel='x'", "listener=[1,{},[]]", "\xff", "[limits]\nmax_connections=99999999999999999999",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		r := &run{cfg: &Config{origins: make(map[string]origin)}, k: newKoanf()}
		r.loadDefaults()
		r.loadTOML("f.toml", []byte(doc))
		r.decode()
		if err := r.err(); err != nil {
			for _, line := range err.(*InvalidError).Problems() { //nolint:errorlint // err makes no other
				if !strings.HasPrefix(line, "f.toml") {
					t.Errorf("no place: %q", line)
				}
			}
			return
		}
		var b strings.Builder
		if err := r.cfg.WriteTOML(&b, nil, Masked); err != nil {
			t.Fatal(err)
		}
	})
}
