package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/trial"
)

// testFlags are the flags of `cleversocks test`.
type testFlags struct {
	to, user, proxy, listener, file, from string
	passwordFile, passwordEnv             string
	get                                   string
	firstByte                             bool
	ca, tlsName                           string
	insecure, json                        bool
	timeout                               time.Duration
}

// errTest is the error of a test that found something wrong and has said what.
var errTest = errors.New("it does not work")

// newTest is `cleversocks test`.
func newTest(ctx context.Context, a *app) *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{
		Use:   "test --to HOST:PORT [--user NAME]",
		Short: "Connects through the running proxy, and says each step with its time",
		Long: `Connects through the running proxy as a client does, log-in, rules, upstreams
and all, and says how long each step took and what came of it. With --get or
--first-byte it also waits for the target to say something.

The proxy is the first listener of the settings in --config, or else at
127.0.0.1:1080; --listener picks another one, --proxy any address. A password
is asked for, or is the first line of standard input, or comes from
--password-file or --password-env: never from the command line, where others
of the machine could see it. Exit status: 0 it works, 1 it does not, 2 usage.`,
		Example: `  cleversocks test --user alice --password-file password --to example.com:443
  cleversocks test --config /etc/cleversocks/cleversocks.toml \
    --user alice --password-file password --to example.com:80 --get /
  cleversocks test --proxy https://proxy.example.org:443 \
    --user alice --password-file password --to example.com:443 --json`,
		Args: noArguments,
	}
	f.add(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return f.run(ctx, a) }
	cmd.AddCommand(newTestRules(ctx, a))
	return cmd
}

func (f *testFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.to, "to", "", "The target, as `HOST:PORT`. The proxy resolves the name.")
	flags.StringVar(&f.user, "user", "", "Logs in as the user `NAME`.")
	flags.StringVar(&f.passwordFile, "password-file", "", "The user's password is the first line of `FILE`.")
	flags.StringVar(&f.passwordEnv, "password-env", "", "The user's password is in the environment's variable `NAME`.")
	flags.StringVar(&f.proxy, "proxy", "", "Goes through the proxy at `ADDRESS`: [SCHEME://]HOST:PORT or [SCHEME://]unix:PATH, the scheme being socks5, socks4 or http, each also with +tls, or https.")
	flags.StringVar(&f.file, "config", "", "Finds the proxy in the daemon's configuration `FILE`.")
	flags.StringVar(&f.listener, "listener", "", "Goes to the listener `NAME` of the settings.")
	flags.StringVar(&f.from, "from", "", "Comes from the address `ADDR` of this machine.")
	flags.StringVar(&f.get, "get", "", "Asks the target for `PATH` over HTTP.")
	flags.BoolVar(&f.firstByte, "first-byte", false, "Waits for the target to say something of its own accord.")
	flags.StringVar(&f.ca, "ca", "", "Trusts the certificates in `FILE`, too.")
	flags.StringVar(&f.tlsName, "tls-name", "", "The proxy's certificate has to be for `NAME`.")
	flags.BoolVar(&f.insecure, "insecure", false, "Trusts any certificate.")
	flags.DurationVar(&f.timeout, "timeout", 15*time.Second, "Gives up after this `DURATION`.")
	flags.BoolVar(&f.json, "json", false, "Prints JSON, for programs.")
}

func (f *testFlags) run(ctx context.Context, a *app) error {
	o, err := f.options(ctx, a)
	if err != nil {
		return err
	}
	if o.User != "" && o.Protocol != "socks4" {
		if o.Password, err = f.password(a); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	report := trial.Run(ctx, o, nil)
	if f.json {
		body, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return err
		}
		_, err = (jsonLines{a.stdout}).Write(append(body, '\n'))
		if err != nil || report.OK {
			return err
		}
		return fmt.Errorf("%w: %s", errTest, printable(report.Error))
	}
	return showReport(a.stdout, &report)
}

// showReport writes what came of a trial as a table, and is an error if it
// failed.
func showReport(w io.Writer, r *trial.Report) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row(table, "through", r.Proxy)
	for _, s := range r.Steps {
		said := s.Detail
		if s.Error != "" {
			said = s.Error
		}
		row(table, strings.ReplaceAll(s.Name, "_", " "), fmt.Sprintf("%.1f ms", s.Took), said)
	}
	row(table, "in all", fmt.Sprintf("%.1f ms", r.Total))
	if err := table.Flush(); err != nil || r.OK {
		return err
	}
	hint := ""
	if r.Hint != "" {
		hint = "\n" + r.Hint
	}
	return fmt.Errorf("%w: %s%s", errTest, printable(r.Error), hint)
}

// options is the trial that the flags ask for.
func (f *testFlags) options(ctx context.Context, a *app) (o trial.Options, err error) {
	if f.to == "" {
		return o, usageError{"--to HOST:PORT is missing"}
	}
	if o.To, err = trial.ParseTarget(f.to); err != nil {
		return o, usageError{"--to: " + err.Error()}
	}
	o.User, o.Get, o.FirstByte = f.user, f.get, f.firstByte
	if len(o.User) > 255 {
		return o, usageError{"--user: a name has at most 255 bytes"}
	}
	if f.get != "" && !strings.HasPrefix(f.get, "/") {
		return o, usageError{"--get: a path begins with /"}
	}
	if f.from != "" {
		if o.From, err = netip.ParseAddr(f.from); err != nil {
			return o, usageError{fmt.Sprintf("--from: %q is not an IP address", f.from)}
		}
	}
	if f.proxy != "" {
		if f.listener != "" || f.file != "" {
			return o, usageError{"--proxy excludes --config and --listener"}
		}
		err = f.parseProxy(&o)
	} else {
		err = f.findProxy(ctx, a, &o)
	}
	if err == nil && o.TLS != nil {
		err = f.finishTLS(o.TLS)
	}
	return o, err
}

// parseProxy reads --proxy.
func (f *testFlags) parseProxy(o *trial.Options) error {
	scheme, address, ok := strings.Cut(f.proxy, "://")
	if !ok {
		scheme, address = "socks5", f.proxy
	}
	if scheme == "https" {
		scheme = "http+tls"
	}
	scheme, overTLS := strings.CutSuffix(scheme, "+tls")
	scheme = strings.TrimSuffix(strings.TrimSuffix(scheme, "h"), "a") // socks5h, socks4a
	if !slices.Contains(trial.Protocols, scheme) {
		return usageError{"--proxy: the scheme is socks5, socks4 or http, each also with +tls, or https"}
	}
	if strings.Contains(address, "@") {
		return usageError{"--proxy: no user and password here, where others of the machine see them: give --user, and the password when it is asked for"}
	}
	o.Protocol = scheme
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		o.Network, o.Address = "unix", path
	} else {
		host, _, err := net.SplitHostPort(strings.TrimSuffix(address, "/"))
		if err != nil {
			return usageError{"--proxy: want [SCHEME://]HOST:PORT or [SCHEME://]unix:PATH"}
		}
		o.Address = strings.TrimSuffix(address, "/")
		if overTLS {
			o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
		}
		return nil
	}
	if overTLS {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return nil
}

// findProxy finds the proxy in the settings.
func (f *testFlags) findProxy(ctx context.Context, a *app, o *trial.Options) error {
	cfg, err := a.loader(f.file).Load(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(cfg.Listeners, func(l config.Listener) bool { return f.listener == "" || l.Called() == f.listener })
	if i < 0 {
		return usageError{fmt.Sprintf("--listener: the settings have none called %q", f.listener)}
	}
	l := &cfg.Listeners[i]
	o.Protocol = string(l.Protocols[0])
	if slices.Contains(l.Protocols, config.Protocol("socks5")) {
		o.Protocol = "socks5"
	}
	if l.Address.Socket != "" {
		o.Network, o.Address = "unix", l.Address.Socket
	} else {
		if l.Address.AddrPort.Port() == 0 {
			return usageError{"the listener has port 0, and which one it got is not known here: give --proxy"}
		}
		at, err := reachable(l.Address.AddrPort)
		if err != nil {
			return err
		}
		o.Address = at.String()
	}
	if l.TLS.Enabled() {
		o.TLS = listenerTLS(l)
	}
	return nil
}

// listenerTLS trusts the certificate that the settings name, for the name that
// it has: the connection goes to this machine, whatever its address.
func listenerTLS(l *config.Listener) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(l.TLS.ACME.Domains) > 0 {
		c.ServerName = l.TLS.ACME.Domains[0]
		return c
	}
	if pair, err := tls.LoadX509KeyPair(l.TLS.Cert, l.TLS.Key); err == nil && pair.Leaf != nil {
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AddCert(pair.Leaf)
		switch {
		case len(pair.Leaf.DNSNames) > 0:
			c.ServerName = pair.Leaf.DNSNames[0]
		case len(pair.Leaf.IPAddresses) > 0:
			c.ServerName = pair.Leaf.IPAddresses[0].String()
		}
	}
	return c
}

func (f *testFlags) finishTLS(c *tls.Config) error {
	if f.tlsName != "" {
		c.ServerName = f.tlsName
	}
	if c.ServerName == "" && !f.insecure {
		return usageError{"--tls-name NAME is missing: which name has the proxy's certificate to be for?"}
	}
	c.InsecureSkipVerify = f.insecure
	if f.ca == "" {
		return nil
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return usageError{"--ca: " + err.Error()}
	}
	if c.RootCAs == nil {
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			c.RootCAs = x509.NewCertPool()
		}
	}
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return usageError{"--ca: there is no certificate in " + f.ca}
	}
	return nil
}

// password is the user's, from where the flags say.
func (f *testFlags) password(a *app) (string, error) {
	switch {
	case f.passwordEnv != "" && f.passwordFile != "":
		return "", usageError{"--password-env and --password-file exclude each other"}
	case f.passwordEnv != "":
		for _, e := range a.environ {
			if value, ok := strings.CutPrefix(e, f.passwordEnv+"="); ok {
				return value, nil
			}
		}
		return "", usageError{"--password-env: there is no variable of that name"}
	case f.passwordFile != "":
		text, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return "", usageError{"--password-file: " + err.Error()}
		}
		line, _, _ := strings.Cut(string(text), "\n")
		return strings.TrimSuffix(line, "\r"), nil
	}
	in, err := a.input("the password")
	if err != nil {
		return "", err
	}
	return supervisor.AskPassword(in, a.stderr)
}
