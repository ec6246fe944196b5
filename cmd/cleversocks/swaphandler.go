package main

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
)

// swapHandler hands records to another handler, which can be exchanged while
// loggers derived from it are in use.
type swapHandler struct {
	target *atomic.Pointer[slog.Handler] // shared by all that derive from one
	steps  []func(slog.Handler) slog.Handler
	made   atomic.Pointer[derived]
}

// derived is a target after the steps, kept so that they are not taken again
// for each record.
type derived struct {
	from    *slog.Handler
	handler slog.Handler
}

func newSwapHandler(h slog.Handler) *swapHandler {
	s := &swapHandler{target: new(atomic.Pointer[slog.Handler])}
	s.swap(h)
	return s
}

func (s *swapHandler) swap(h slog.Handler) { s.target.Store(&h) }

// Enabled asks the present target.
func (s *swapHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*s.target.Load()).Enabled(ctx, level)
}

// Handle gives the record to the present target.
func (s *swapHandler) Handle(ctx context.Context, r slog.Record) error {
	return s.current().Handle(ctx, r)
}

// WithAttrs notes the attributes for whatever target there will be.
func (s *swapHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return s.derive(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup notes the group for whatever target there will be.
func (s *swapHandler) WithGroup(name string) slog.Handler {
	return s.derive(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (s *swapHandler) derive(step func(slog.Handler) slog.Handler) slog.Handler {
	return &swapHandler{target: s.target, steps: append(slices.Clip(s.steps), step)}
}

func (s *swapHandler) current() slog.Handler {
	from := s.target.Load()
	if d := s.made.Load(); d != nil && d.from == from {
		return d.handler
	}
	h := *from
	for _, step := range s.steps {
		h = step(h)
	}
	s.made.Store(&derived{from: from, handler: h})
	return h
}
