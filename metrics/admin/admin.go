// Package admin is the management endpoint: an HTTP server of its own, for
// metrics and health. It knows nothing of the daemon; it is given functions.
//
//	s := admin.New(socket, admin.Options{Metrics: registry.WritePrometheus, Ready: ready})
//	supervisor.Add(s)
package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/thejerf/suture/v4"
)

// Options are what the endpoint tells.
type Options struct {
	Metrics func(io.Writer) // in the Prometheus text format
	Ready   func() error    // nil: new connections are welcome
	Version string
	Pprof   bool
	API     API
	Log     *slog.Logger
}

// Server serves the management endpoint on one socket, which it closes when
// Serve returns.
type Server struct {
	options Options
	socket  net.Listener
}

// New makes the server. The socket is the server's from here on.
func New(socket net.Listener, o Options) *Server {
	return &Server{options: o, socket: socket}
}

func (s *Server) String() string { return "admin" }

// Bounds of a management request: it is small, and its client is near.
const (
	requestTimeout = 10 * time.Second
	maxHeader      = 16 << 10
	shutdownGrace  = 2 * time.Second
)

// Serve answers requests until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(s.socket)
	if !stop() {
		<-stopped
		return ctx.Err()
	}
	if errors.Is(err, net.ErrClosed) {
		return errors.Join(suture.ErrDoNotRestart, err)
	}
	return err
}

// handler maps the paths. Everything but the API answers GET and HEAD alone.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	s.options.API.routes(mux)
	if s.options.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusOK, "CleverSocks "+s.options.Version+"\n\n"+
		"/metrics  Prometheus metrics\n"+
		"/healthz  the process answers\n"+
		"/readyz   it takes new connections\n"+
		"/api/v1/  explain, whitelist, bans; with a token")
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	s.options.Metrics(w)
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.options.Ready(); err != nil {
		text(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	text(w, http.StatusOK, "ready")
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, body) // the client left: nothing to do
}
