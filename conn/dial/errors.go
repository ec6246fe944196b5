package dial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"cleversocks/metrics"
	"cleversocks/resolver"
)

var (
	// ErrNoUsableAddress says that the destination has no address that could
	// be dialed under the settings: the family is turned off, no source
	// address fits it, or the address names no host.
	ErrNoUsableAddress = errors.New("no usable address")
	// ErrDescriptors says that this process or system ran out of descriptors
	// or memory; it says nothing about the destination.
	ErrDescriptors = errors.New("out of descriptors")
)

// DeniedError says that the request's Judge refused every address there was.
type DeniedError struct {
	Addr netip.Addr // the first one refused
	Err  error      // what Judge said of it
}

// Error names the address and the reason.
func (e *DeniedError) Error() string { return fmt.Sprintf("%s: %v", e.Addr, e.Err) }

// Unwrap is what Judge said.
func (e *DeniedError) Unwrap() error { return e.Err }

// Classify is the outcome of a dial for metrics: one of the Dial constants of
// package metrics.
func Classify(err error) string {
	switch {
	case err == nil:
		return metrics.DialOK
	case isDenied(err):
		return metrics.DialDenied
	case errors.Is(err, context.Canceled):
		return metrics.DialCancelled
	// Before any errno: one below these is a name server's.
	case errors.Is(err, resolver.ErrNotFound), errors.Is(err, ErrNoUsableAddress):
		return metrics.DialNotFound
	case errors.Is(err, resolver.ErrTimeout):
		return metrics.DialTimeout
	case errors.Is(err, resolver.ErrServers):
		return metrics.DialError
	case errors.Is(err, syscall.ECONNREFUSED):
		return metrics.DialRefused
	case isTimeout(err):
		return metrics.DialTimeout
	case isNoHost(err), isNoNetwork(err):
		return metrics.DialUnreachable
	}
	return metrics.DialError
}

func isDenied(err error) bool {
	_, ok := errors.AsType[*DeniedError](err)
	return ok
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, resolver.ErrTimeout)
}

// isNoHost reports that something on the way said that it does not lead to the
// host: the IPv6 form of "administratively prohibited" is EACCES, and that of IPv4
// EHOSTUNREACH.
func isNoHost(err error) bool {
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EHOSTDOWN) || errors.Is(err, syscall.EACCES)
}

func isNoNetwork(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ENETDOWN)
}

// isExhausted reports a lack of descriptors or memory here.
func isExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// weight orders failures by how much they tell about the destination: that a
// host was there and refused says more than silence, which says more than a
// family that has no route here, or that the rules or the DNS left out.
func weight(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, resolver.ErrNotFound), errors.Is(err, ErrNoUsableAddress):
		return 1
	case errors.Is(err, resolver.ErrServers), errors.Is(err, resolver.ErrTimeout):
		return 2
	case isDenied(err):
		return 3
	case isNoNetwork(err):
		return 4
	case isTimeout(err):
		return 6
	case isNoHost(err):
		return 7
	case errors.Is(err, syscall.ECONNREFUSED):
		return 8
	case isExhausted(err):
		return 9
	}
	return 5
}

// worse is the more telling of two failures, the first one when they tell the
// same.
func worse(a, b error) error {
	if weight(b) > weight(a) {
		return b
	}
	return a
}

// telling is an attempt's error as Dial reports it: cancellation and time-outs
// of all kinds go by the context's names, exhaustion by ours.
func telling(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return cancelled(ctx)
	case isExhausted(err):
		return fmt.Errorf("%w: %w", ErrDescriptors, err)
	case isTimeout(err) && !errors.Is(err, context.DeadlineExceeded):
		// The socket's own deadline may come before the context's, and the
		// kernel gives up by itself (ETIMEDOUT): all are one to the caller.
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return err
}

// cancelled is the error of a dial that its caller gave up: context.Canceled,
// with the cause when there is one.
func cancelled(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w: %w", context.Canceled, cause)
	}
	return context.Canceled
}
