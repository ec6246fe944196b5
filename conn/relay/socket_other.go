//go:build !linux

package relay

import (
	"context"
	"syscall"
)

// initReadiness leaves the end to blocking reads and writes.
func (e *end) initReadiness() {}

// initSockets leaves the pump to blocking reads and writes.
func (p *pump) initSockets() {}

// tookAll is not asked here.
func (p *pump) tookAll() bool { return false }

// queued is unknown here: a reset does not wait for what is queued.
func (e *end) queued() int { return 0 }

// disconnected is unknown here.
func (e *end) disconnected() bool { return false }

// readUrgentInPlace is left to the system here.
func (e *end) readUrgentInPlace() {}

// failure is why a conn is disconnected.
func (e *end) failure() error { return syscall.ECONNRESET }

// awaitReset does not wait here.
func (e *end) awaitReset() bool { return false }

// control is for what Linux tells of a socket.
func (e *end) control(func(fd int)) {}

// isBare is Linux's alone.
func (e *end) isBare() bool { return false }

func (e *end) shutBare() {}

func (e *end) resetBare() {}

// tryFrom is not asked here: no end can be read without waiting.
func (p *pump) tryFrom() error { return syscall.ENOTSUP }

// tryTo is not asked here.
func (p *pump) tryTo() error { return syscall.ENOTSUP }

func (e *end) close() { _ = e.conn.Close() }

const bareAfter = 0

func (t *Tunnel) strip() {}

func (t *Tunnel) dress() bool { return true }

const errAgain = syscall.EAGAIN

// peek is not asked here: no source tells when it is readable.
func peek(uintptr) (int, syscall.Errno) { return 0, 0 }

const pipeSize = 0

func (p *pump) pipeMoves() {}

func (p *pump) probe() {}

// pipe is Linux's alone.
type pipe struct{}

func (p *Pools) takePipe() *pipe { return nil }

func (p *Pools) givePipe(*pipe) {}

func (p *Pools) closePipes() {}

type pipeList struct{}

// Reactor is Linux's alone: there are none.
type Reactor struct{}

// String names the service.
func (*Reactor) String() string { return "relay reactor" }

// Serve has nothing to do.
func (*Reactor) Serve(ctx context.Context) error { return ctx.Err() }

type reactorSet struct{ all []*Reactor }

func (p *Pools) openReactors(int) {}

func (p *Pools) closeReactors() {}

func (t *Tunnel) chooseReactor() {}

func (t *Tunnel) join() bool { return false }

func (t *Tunnel) rewatch() {}

func (t *Tunnel) watchForRoom(*end) {}

func (t *Tunnel) leave() {}
