//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The proxies that the ratios refer to: a plain loop of reads and writes, and
// for TLS the one that most people would take. floor is what there is to reach.
const (
	yardstick    = "iocopy"
	floor        = "floor"
	udpYardstick = "udpplain"
	tlsYardstick = "haproxy"
)

// carries is what a proxy can do, and what a measurement needs.
type carries uint16

const (
	overTCP carries = 1 << iota
	overUDP
	overTLS // from the client to the proxy
	without // no proxy at all: the load by itself
	// The ways of a connection's set-up: see setup.go.
	withPassword
	withName
	withSOCKS4a
	withHTTP
	withLog
	deployed
)

// setup are all ways of a connection's set-up.
const setup = withPassword | withName | withSOCKS4a | withHTTP | withLog | deployed

// yardstick is the proxy that ratios refer to.
func (c carries) yardstick() string {
	switch {
	case c&overUDP != 0:
		return udpYardstick
	case c&overTLS != 0:
		return tlsYardstick
	}
	return yardstick
}

// proxy is a program that can be measured.
type proxy struct {
	name    string
	command []string                         // {host}, {port}, {config} and {dir} are filled in; nil: no proxy
	config  func(*instance) (content string) // nil: none
	carries carries
	socks   bool // it speaks SOCKS, and has no destination of its own
	plain   bool // it knows plain SOCKS5 alone: connections to it are that in the place of all else
	// as is how it is started for measurements that need something; else as ever.
	as map[carries]proxy
	// stranger is one that was brought: it may not carry datagrams.
	stranger bool
}

// takes reports whether a proxy is to be measured.
func (o options) takes(name string) bool {
	return o.only == "" || name == "cleversocks" || slices.Contains(strings.Split(o.only, ","), name)
}

// build makes the proxies that come from this module and are to be measured.
func build(ctx context.Context, o options, dir string) error {
	packages := map[string]string{yardstick: "./e2e/bench/iocopy", floor: "./e2e/bench/floor", udpYardstick: "./e2e/bench/udpplain"}
	if o.ours == "" {
		packages["cleversocks"] = "./cmd/cleversocks"
	}
	for name, path := range packages {
		if !o.takes(name) {
			continue
		}
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), path)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", path, err, out)
		}
	}
	return nil
}

// choose lists the proxies to measure; names is the address of a name server.
func choose(o options, dir, names string) ([]proxy, error) {
	ours := o.ours
	if ours == "" {
		ours = filepath.Join(dir, "cleversocks")
	}
	all := []proxy{
		{name: direct, carries: without},
		{
			name: "cleversocks", command: []string{ours, "-q", "-i", "{host}", "-p", "{port}"},
			carries: overTCP | overUDP | overTLS | setup, as: cleversocksAs(ours, names),
		},
		{name: yardstick, command: []string{filepath.Join(dir, yardstick), "-listen", "{host}:{port}"}, carries: overTCP | setup, plain: true},
		{name: floor, command: []string{filepath.Join(dir, floor), "{host}:{port}"}, carries: overTCP, plain: true},
		{name: udpYardstick, command: []string{filepath.Join(dir, udpYardstick), "{host}:{port}"}, carries: overUDP},
		{name: "microsocks", command: []string{"microsocks", "-i", "{host}", "-p", "{port}"}, carries: overTCP | withPassword, as: map[carries]proxy{
			withPassword: {command: []string{"microsocks", "-i", "{host}", "-p", "{port}", "-u", setupUser, "-P", setupUser}},
		}},
		{name: "danted", command: []string{"danted", "-f", "{config}"}, config: danteConfig, carries: overTCP | overUDP},
		{name: tlsYardstick, command: []string{"haproxy", "-db", "-f", "{config}"}, config: haproxyConfig, carries: overTLS},
		{name: "stunnel", command: []string{"stunnel4", "{config}"}, config: stunnelConfig, carries: overTLS},
	}
	for _, extra := range o.extra {
		name, command, _ := strings.Cut(extra, "=")
		all = append(all, proxy{name: name, command: strings.Fields(command), carries: overTCP | overUDP, stranger: true})
	}
	if o.only == "" {
		return all, nil
	}
	var chosen []proxy
	for name := range strings.SplitSeq(o.only, ",") {
		if name == "ours" {
			name = "cleversocks"
		}
		i := slices.IndexFunc(all, func(p proxy) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: no proxy %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// direct is the name of what is no proxy: clients reach their destination
// themselves, and no proxy can be better than that.
const direct = "direct"

func danteConfig(i *instance) string {
	host, port, _ := net.SplitHostPort(i.address)
	return fmt.Sprintf(`logoutput: /dev/null
internal: %s port = %s
external: %s
socksmethod: none
clientmethod: none
user.privileged: root
user.unprivileged: root
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`, host, port, host)
}

// instance is a running proxy.
type instance struct {
	address string // "": there is none
	// backend is where the destination is of proxies that must know it when they
	// start. The measurement serves there.
	backend     string
	speaksSOCKS bool
	plain       bool
	usage       *usage
	cmd         *exec.Cmd
	output      *os.File // what the proxy says
	dir         string
	ready       time.Duration // from its start until it accepted
}

// prepare makes the files that the proxy needs.
func (p proxy) prepare(i *instance, config string) (err error) {
	if i.output, err = os.Create(filepath.Join(i.dir, "output")); err != nil {
		return err
	}
	if err = writeIdentity(i.dir); err != nil || p.config == nil {
		return err
	}
	return os.WriteFile(config, []byte(p.config(i)), 0o600)
}

// start runs the proxy in groups of its own and waits until it accepts.
func (p proxy) start(ctx context.Context) (*instance, error) {
	if p.command == nil {
		return &instance{}, nil
	}
	const host = "127.0.0.1"
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	backend, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	i := &instance{address: net.JoinHostPort(host, strconv.Itoa(port)), backend: net.JoinHostPort(host, strconv.Itoa(backend)), speaksSOCKS: p.socks, plain: p.plain}
	if i.dir, err = os.MkdirTemp("", "cleversocks-bench-"); err != nil {
		return nil, err
	}
	config := filepath.Join(i.dir, "config")
	if err := p.prepare(i, config); err != nil {
		return nil, errors.Join(err, os.RemoveAll(i.dir))
	}
	fill := strings.NewReplacer("{host}", host, "{port}", strconv.Itoa(port), "{config}", config, "{dir}", i.dir)
	args := make([]string, len(p.command))
	for n, arg := range p.command {
		args[n] = fill.Replace(arg)
	}
	if args[0], err = exec.LookPath(args[0]); err != nil {
		return nil, errors.Join(err, os.RemoveAll(i.dir))
	}
	i.usage = newUsage()
	var begin time.Time
	i.cmd, err = i.usage.command(args)
	if err == nil {
		i.cmd.Stdout, i.cmd.Stderr = i.output, i.output
		// Its children too must go when it is stopped.
		i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		i.cmd.WaitDelay = time.Second
		begin = time.Now()
		err = i.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, i.usage.close(), os.RemoveAll(i.dir))
	}
	i.usage.pid = i.cmd.Process.Pid
	if err := awaitAccept(ctx, i.address); err != nil {
		err = errors.Join(err, i.failure())
		i.stop()
		return nil, err
	}
	i.ready = time.Since(begin)
	return i, nil
}

// stop ends the proxy, its children and its groups.
func (i *instance) stop() {
	if i.cmd == nil {
		return
	}
	_ = syscall.Kill(-i.cmd.Process.Pid, syscall.SIGKILL)
	_ = i.cmd.Wait() // killed, as asked
	if err := errors.Join(i.usage.close(), i.output.Close(), os.RemoveAll(i.dir)); err != nil {
		fmt.Fprintln(os.Stderr, "bench: clean up:", err)
	}
}

// failure is what the proxy had to say, if anything.
func (i *instance) failure() error {
	b := make([]byte, 500)
	n, _ := i.output.ReadAt(b, 0)
	if n == 0 {
		return nil
	}
	return fmt.Errorf("it said: %s", b[:n])
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// awaitAccept dials until somebody answers.
func awaitAccept(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		c, err := dialer.DialContext(ctx, "tcp4", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("does not accept: %w", err)
		case <-tick.C:
		}
	}
}
