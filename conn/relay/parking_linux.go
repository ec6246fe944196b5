package relay

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// parking has a reactor wait in Go's poller. A goroutine that blocks in a system
// call keeps its processor until the runtime's monitor takes it away, which looks
// every 10 ms when there is little to do. Where that processor is the only one,
// everything else would wait as long: datagrams, TLS, the admin port.
type parking struct {
	file  *os.File // has the epoll descriptor
	raw   syscall.RawConn
	await func(fd uintptr) bool // looks; made once, for it would be garbage at each event
	found int                   // how many events it has found
}

// newParking takes the reactor's epoll descriptor, if it does not fail.
func newParking(r *Reactor) (*parking, error) {
	if err := unix.SetNonblock(r.epoll, true); err != nil { // os.File parks only such
		return nil, err
	}
	p := &parking{file: os.NewFile(uintptr(r.epoll), r.name)}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, err
	}
	p.await = func(uintptr) bool {
		p.found = r.epollWait(true)
		return p.found > 0
	}
	return p, nil
}

// wait waits until there are events, and says how many. The bell is one of them, so
// that no deadline is needed.
func (p *parking) wait() (n int, err error) {
	err = p.raw.Read(p.await)
	return p.found, err
}
