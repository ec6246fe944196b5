package supervisor

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"cleversocks/supervisor/config"
)

// taken warns of addresses that somebody has at the moment, so that a daemon
// which is started now would not get them. Where somebody has all of them, it is
// most likely the daemon with these settings.
func taken(cfg *config.Config) []string {
	var warnings []string
	keys, addresses := bound(cfg)
	free, busy := false, 0
	for i, at := range addresses {
		switch {
		case !at.AddrPort.IsValid() || at.AddrPort.Port() == 0:
		case inUse(at.AddrPort):
			if busy++; keys[i] == adminKey && !cfg.Admin.Configured {
				continue // the daemon goes on without it
			}
			warnings = append(warnings, cfg.At(keys[i], fmt.Sprintf("%s is in use at the moment, and a daemon that is started now would not get it", at), nil).Error())
		default:
			free = true
		}
	}
	if !free && busy > 1 {
		return nil
	}
	return warnings
}

// inUse asks the kernel whether somebody listens at an address, without
// listening there.
func inUse(at netip.AddrPort) bool {
	family := unix.AF_INET6
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if at.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was done with it
	// Else connections of before, which wait for their end, are in the way.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return false
	}
	return errors.Is(unix.Bind(fd, to), syscall.EADDRINUSE)
}
