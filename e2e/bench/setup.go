//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// The ways of a connection's set-up, which clients ask for and which settings
// make longer. The yardstick knows none of them: its plain SOCKS5 connections are
// measured in turn with each, as a machine's speed changes by the minute.

// setupUser is who logs in, and his password.
const setupUser = "bench"

// setupSettings are what -q and the address are in all other measurements.
const setupSettings = `
[log]
level = "error"
access = "off"
[[listener]]
address = %q
`

// deployedSettings are what a deployment has: caps and timeouts that hold
// nobody up here. The rules come behind them, and metrics are on as ever.
const deployedSettings = `
[limits]
max_connections = 8000
max_connections_per_ip = 4000
connection_rate = { per_second = 100000, burst = 100000 }
handshake_timeout = "10s"
connect_timeout = "5s"
idle_timeout = "5m"
max_session_age = "24h"
[acl]
default = "deny"
[[acl.rule]]
action = "deny"
ports = [25, 465, 587]
`

// deployedRules is how many rules a deployment has.
const deployedRules = 1000

// cleversocksAs is how ours is started for measurements of other things than
// plain TCP; names is the address of a name server.
func cleversocksAs(binary, names string) map[carries]proxy {
	with := func(settings func(i *instance) string) proxy {
		return proxy{command: []string{binary, "--config", "{config}"}, config: func(i *instance) string {
			return fmt.Sprintf(setupSettings, i.address) + settings(i)
		}}
	}
	as := func(settings string) proxy { return with(func(*instance) string { return settings }) }
	resolving := as(fmt.Sprintf("[resolver]\nservers = [\"udp://%s\"]\n", names))
	return map[carries]proxy{
		overTLS:      {command: []string{binary, "-q", "-i", "{host}", "-p", "{port}", "--tls-cert", "{dir}/cert", "--tls-key", "{dir}/key"}, socks: true},
		withPassword: with(func(*instance) string { return userSettings() }),
		withName:     resolving,
		withSOCKS4a:  resolving,
		withHTTP:     as(""),
		withLog: {command: []string{binary, "--config", "{config}"}, config: func(i *instance) string {
			return fmt.Sprintf("[log]\nlevel = \"error\"\naccess = \"all\"\naccess_output = %q\n[[listener]]\naddress = %q\n", filepath.Join(i.dir, "access"), i.address)
		}},
		deployed: as(deployedSettings + denyRules(deployedRules-2) + "[[acl.rule]]\naction = \"allow\"\nto = [\"127.0.0.0/8\"]\n"),
	}
}

// userSettings is a user whose password is a hash that takes its time, once: who
// has logged in is remembered.
func userSettings() string {
	hash, err := bcrypt.GenerateFromPassword([]byte(setupUser), bcrypt.DefaultCost)
	if err != nil {
		panic(err) // of a short password at the default cost: it cannot be
	}
	return fmt.Sprintf("[[user]]\nname = %q\npassword_hash = %q\n", setupUser, hash)
}

// plain opens a connection with SOCKS5 and an address, or to the target itself
// where there is no proxy.
func plain(ctx context.Context, p *instance, target *net.TCPAddr) (*net.TCPConn, error) {
	if p.address == "" {
		return reach(ctx, target.String())
	}
	return dial(ctx, p.address, target)
}

// openAs opens with SOCKS5 by a name, where there is one, as a user, where there is.
func openAs(name, user string) opener {
	return func(ctx context.Context, p *instance, target *net.TCPAddr) (*net.TCPConn, error) {
		return dialAs(ctx, p.address, name, user, target)
	}
}

// openSOCKS4a opens with SOCKS4a by a name of this machine: the address 0.0.0.1
// stands for it.
func openSOCKS4a(ctx context.Context, p *instance, target *net.TCPAddr) (*net.TCPConn, error) {
	return reachThrough(ctx, p.address, func(c net.Conn) error {
		request := append([]byte{4, 1, byte(target.Port >> 8), byte(target.Port), 0, 0, 0, 1, 0}, hostName(0)...)
		if err := ask(c, append(request, 0), []byte{0, 90}); err != nil {
			return fmt.Errorf("reply: %w", err)
		}
		_, err := io.ReadFull(c, make([]byte, 6))
		return err
	})
}

// openHTTP opens with HTTP CONNECT (RFC 9110 §9.3.6) and an address.
func openHTTP(ctx context.Context, p *instance, target *net.TCPAddr) (*net.TCPConn, error) {
	return reachThrough(ctx, p.address, func(c net.Conn) error {
		if _, err := fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target); err != nil {
			return err
		}
		b, n := make([]byte, 1024), 0
		for !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) { // nothing follows: the server speaks second
			m, err := c.Read(b[n:])
			if err != nil {
				return fmt.Errorf("reply %q: %w", b[:n], err)
			}
			n += m
		}
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("reply %q", b[:n])
		}
		return nil
	})
}

// reach opens a connection.
func reach(ctx context.Context, address string) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	c, err := dialer.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// reachThrough opens one to a proxy and shakes hands with it, in bounded time.
func reachThrough(ctx context.Context, proxy string, handshake func(net.Conn) error) (*net.TCPConn, error) {
	c, err := reach(ctx, proxy)
	if err != nil {
		return nil, err
	}
	if err = c.SetDeadline(time.Now().Add(dialTimeout)); err == nil {
		err = handshake(c)
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dialAs is dial by a name, where there is one, and as a user, where there is.
func dialAs(ctx context.Context, proxy, name, user string, at *net.TCPAddr) (*net.TCPConn, error) {
	if name == "" && user == "" {
		return dial(ctx, proxy, at)
	}
	return reachThrough(ctx, proxy, func(c net.Conn) error { return connectAs(c, name, user, at) })
}

// connectAs is connect with a name (RFC 1928 §5) and a user's name, which is
// the password too (RFC 1929).
func connectAs(c net.Conn, name, user string, at *net.TCPAddr) error {
	method := byte(0)
	if user != "" {
		method = 2
	}
	if err := ask(c, []byte{5, 1, method}, []byte{5, method}); err != nil {
		return fmt.Errorf("method: %w", err)
	}
	if user != "" {
		login := append([]byte{1, byte(len(user))}, user...)
		login = append(append(login, byte(len(user))), user...)
		if err := ask(c, login, []byte{1, 0}); err != nil {
			return fmt.Errorf("log-in of %s: %w", user, err)
		}
	}
	request := append([]byte{5, 1, 0, 1}, at.IP.To4()...)
	if name != "" {
		request = append([]byte{5, 1, 0, 3, byte(len(name))}, name...)
	}
	request = append(request, byte(at.Port>>8), byte(at.Port))
	if err := ask(c, request, []byte{5, 0, 0, 1}); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	_, err := io.ReadFull(c, make([]byte, 6))
	return err
}

// ask sends a message and wants an answer.
func ask(c net.Conn, message, want []byte) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("% x", got)
	}
	return nil
}
