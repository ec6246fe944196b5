package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"cleversocks/listener"
	"cleversocks/supervisor/config"
)

// Verify is nil, or tells all that this machine would refuse of settings that
// are right by themselves, as a start would one by one. It opens and changes
// nothing that stays.
func Verify(ctx context.Context, cfg *config.Config) error {
	var faults []config.Fault
	add := func(key string, err error) {
		if err != nil {
			faults = append(faults, config.Fault{Key: key, Text: err.Error()})
		}
	}
	add("relay.congestion", listener.CheckCongestion(cfg.Relay.Congestion))
	add("log.output", checkLogFile(cfg.Log.Output))
	add("log.access_output", checkLogFile(cfg.Log.AccessOutput))
	add("state.directory", checkDirectory(cfg.State.Directory))
	add("egress.interface", checkInterface(cfg.Egress.Interface))
	add("egress.mark", checkMark(ctx, cfg.Egress.Mark))
	for i, w := range cfg.Forwards {
		at := fmt.Sprintf("forward[%d].egress", i)
		add(at+".interface", checkInterface(w.Egress.Interface))
		add(at+".mark", checkMark(ctx, w.Egress.Mark))
	}
	for i, l := range cfg.Listeners {
		add(fmt.Sprintf("listener[%d].address", i), listener.Check(ctx, listener.Options{Address: l.Address.String(), Transparent: transparentMode(l)}))
		for j, other := range cfg.Listeners[:i] {
			if overlap(l.Address.String(), other.Address.String()) {
				add(fmt.Sprintf("listener[%d].address", i), fmt.Errorf("%s and listener[%d].address, %s, have the port twice: one on all addresses leaves none for another",
					l.Address, j, other.Address))
				break
			}
		}
	}
	return cfg.Invalid(faults)
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
	if err := unix.Access(path, unix.W_OK); err != nil {
		return fmt.Errorf("%q can't be written: %w", path, err)
	}
	return nil
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
