package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cleversocks/listener"
	"cleversocks/supervisor/config"
)

// Verify is nil, or tells all that this machine would refuse of settings that
// are right by themselves, as a start would. It opens and changes nothing that
// stays.
func Verify(ctx context.Context, cfg *config.Config) error {
	return cfg.Invalid(append(unfit(ctx, cfg, nil), unbindable(ctx, cfg)...))
}

// Warnings are what an operator should read of settings that Verify accepts.
func Warnings(ctx context.Context, cfg *config.Config) []string {
	return slices.Concat(cfg.Warnings, cfg.Exposed(nil, nil), foreignSources(ctx, cfg), taken(cfg))
}

// The settings of addresses that are not of listeners.
const (
	adminKey  = "admin.address"
	healthKey = "admin.health_tcp"
)

// addressKey is the setting of the i-th listener's address.
func addressKey(i int) string { return fmt.Sprintf("listener[%d].address", i) }

// bound are the addresses that the daemon listens at, by setting, in the order
// of the settings.
func bound(cfg *config.Config) (keys []string, addresses []config.ListenAddress) {
	for i, l := range cfg.Listeners {
		keys, addresses = append(keys, addressKey(i)), append(addresses, l.Address)
	}
	return append(keys, adminKey, healthKey), append(addresses, cfg.Admin.Address.ListenAddress, cfg.Admin.HealthTCP)
}

// unbindable are the addresses that this process could not listen at, whoever
// has them at the moment.
func unbindable(ctx context.Context, cfg *config.Config) (found faults) {
	keys, addresses := bound(cfg)
	for i, at := range addresses {
		if at.IsZero() {
			continue
		}
		o := listener.Options{Address: at.String()}
		if i < len(cfg.Listeners) {
			o.Transparent = transparentMode(cfg.Listeners[i])
		}
		if err := listener.Check(ctx, o); err != nil {
			found.add(keys[i], fmt.Errorf("%s: %w", at, err))
		}
	}
	return found
}

// refused is the error of an address that could not be opened, with the place of
// its setting. That somebody else has it is no fault of the settings, and
// neither is a machine that has run out of something.
func refused(cfg *config.Config, key string, err error) error {
	text := strings.TrimPrefix(err.Error(), "listener ")
	for _, passing := range []error{syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, passing) {
			return cfg.At(key, text, err)
		}
	}
	return cfg.Invalid([]config.Fault{{Key: key, Text: text}})
}

// verify is the part that refuses, before anything is opened for them, what
// Verify refuses and nothing else would: a daemon would run without the state,
// the interface or the mark that somebody counts on.
func verify(ctx context.Context, d *draft) (change, error) {
	if d.old == nil {
		return nil, nil //nolint:nilnil // start has looked, before it opened the log
	}
	return nil, d.cfg.Invalid(unfit(ctx, d.cfg, d.old))
}

// faults are what is wrong, setting by setting.
type faults []config.Fault

func (fs *faults) add(key string, err error) {
	if err != nil {
		*fs = append(*fs, config.Fault{Key: key, Text: err.Error()})
	}
}

// unfit is what this machine refuses of the settings, but for the addresses of
// listeners, which are tried by opening them. What old has too, nil for nothing,
// is not looked at again: an interface that is down for a moment must not keep
// a reload from anything else.
func unfit(ctx context.Context, cfg, old *config.Config) (found faults) {
	if old == nil || old.Relay.Congestion != cfg.Relay.Congestion {
		found.add("relay.congestion", listener.CheckCongestion(cfg.Relay.Congestion))
	}
	if old == nil {
		checkSandbox(cfg, &found)
	}
	found.add("log.output", checkLogFile(cfg.Log.Output))
	if _, ok := cfg.Log.Collector(); !ok { // which may come later than we
		found.add("log.access_output", checkLogFile(cfg.Log.AccessOutput))
	}
	if old == nil || old.State.Directory != cfg.State.Directory {
		found.add("state.directory", checkDirectory(cfg.State.Directory))
	}
	before := egresses(old)
	for key, e := range egresses(cfg) {
		if !used(before, func(b config.Egress) bool { return b.Interface == e.Interface }) {
			found.add(key+".interface", checkInterface(e.Interface))
		}
		if !used(before, func(b config.Egress) bool { return b.Mark != 0 }) {
			found.add(key+".mark", checkMark(ctx, e.Mark))
		}
	}
	if old == nil || old.UDP.Ports != cfg.UDP.Ports || old.UDP.Enabled != cfg.UDP.Enabled {
		found.add("udp.ports", checkPorts(cfg.UDP.Enabled, cfg.UDP.Ports))
	}
	if old == nil || old.Bind.Ports != cfg.Bind.Ports || old.Bind.Enabled != cfg.Bind.Enabled {
		found.add("bind.ports", checkPorts(cfg.Bind.Enabled, cfg.Bind.Ports))
	}
	for i, l := range cfg.Listeners {
		found.add(fmt.Sprintf("listener[%d].tls.acme.cache", i), checkCache(l.TLS.ACME.Cache))
	}
	overlapping(cfg, &found)
	return found
}

// overlapping finds addresses of which one leaves none for another. The admin
// endpoint's default address is given up where it is in the way.
func overlapping(cfg *config.Config, found *faults) {
	keys, addresses := bound(cfg)
	for i, at := range addresses {
		if keys[i] == adminKey && !cfg.Admin.Configured {
			continue
		}
		for j, other := range addresses[:i] {
			if (keys[j] != adminKey || cfg.Admin.Configured) && overlap(at.String(), other.String()) {
				found.add(keys[i], fmt.Errorf("%s and %s, %s, have the port twice: one on all addresses leaves none for another", at, keys[j], other))
				break
			}
		}
	}
}

// egresses are the ways out in the settings, by key; nil has none.
func egresses(cfg *config.Config) map[string]config.Egress {
	if cfg == nil {
		return nil
	}
	all := map[string]config.Egress{"egress": cfg.Egress}
	for i, w := range cfg.Forwards {
		all[fmt.Sprintf("forward[%d].egress", i)] = w.Egress
	}
	return all
}

// used reports whether one of the ways out is such.
func used(all map[string]config.Egress, such func(config.Egress) bool) bool {
	for _, e := range all {
		if such(e) {
			return true
		}
	}
	return false
}

// checkLogFile tries whether a log could be opened, without making it.
func checkLogFile(path string) error {
	if path == "" || path == "stderr" || path == config.LogStdout {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := checkDirectory(filepath.Dir(path)); err != nil {
			return fmt.Errorf("%q can't be made: %w", path, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("%q can't be opened: %w", path, bareError(err))
	case info.IsDir():
		return fmt.Errorf("%q is a directory", path)
	}
	// Not blocking: a pipe may have nobody at its other end, and is refused then.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return fmt.Errorf("%q can't be written: %w", path, bareError(err))
	}
	return f.Close()
}

// checkDirectory tries whether files can be made in a directory.
func checkDirectory(path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%q: %w", path, bareError(err))
	case !info.IsDir():
		return fmt.Errorf("%q is no directory", path)
	}
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%q can't be written: %w", path, err)
	}
	return nil
}

// checkCache tries whether a directory that is made where it is missing could be:
// itself, and none above it, so that a misspelt one is an error.
func checkCache(path string) error {
	if _, err := os.Stat(path); path == "" || !errors.Is(err, fs.ErrNotExist) {
		return checkDirectory(path)
	}
	if err := checkDirectory(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%q can't be made: %w", path, err)
	}
	return nil
}

// bareSocket leaves out the call and the address, which the message has already.
func bareSocket(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	return err
}

// bareError leaves out the operation and path, which the message has already.
func bareError(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

func checkInterface(name string) error {
	if name == "" {
		return nil
	}
	if _, err := net.InterfaceByName(name); err != nil {
		return fmt.Errorf("this machine has no interface %q", name)
	}
	return nil
}

// checkMark tries whether this process may set SO_MARK (socket(7)).
func checkMark(ctx context.Context, mark int64) error {
	if mark == 0 {
		return nil
	}
	var refused error
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			refused = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		})
	}}
	socket, err := lc.ListenPacket(ctx, "udp", "localhost:0")
	if err != nil {
		return nil //nolint:nilerr // nothing was learned of the mark
	}
	_ = socket.Close() // nothing was sent
	if refused != nil {
		return fmt.Errorf("SO_MARK needs CAP_NET_ADMIN: %w", refused)
	}
	return nil
}

// checkPorts tries whether this process may have the ports of a range, the first of
// which asks for most. It does with a datagram socket, for TCP's ports too: what is
// privileged is the same, and Landlock, which may hold TCP's, does not mind.
func checkPorts(enabled bool, ports config.OwnPorts) error {
	if !enabled || ports.First == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil // nothing was learned of the ports
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(ports.First), Addr: [4]byte{127, 0, 0, 1}})
	if errors.Is(err, unix.EACCES) { // and not that somebody has it
		return fmt.Errorf("port %d: %w: ports below 1024 need CAP_NET_BIND_SERVICE", ports.First, err)
	}
	return nil
}
