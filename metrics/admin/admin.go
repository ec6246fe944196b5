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
	"strings"
	"sync"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn/task"
)

// Options are what the endpoint tells.
type Options struct {
	Metrics func(io.Writer) // in the Prometheus text format
	Ready   func() error    // nil: new connections are welcome
	// Degraded is what does not work while the daemon is ready; nil: nothing.
	Degraded func() []string
	Version  string
	Pprof    bool
	// Hosts are the names, beyond those that need no mention, by which clients
	// may call the endpoint; nil: none.
	Hosts func() []string
	API   API
	Log   *slog.Logger
	// Full hears of each client that is turned away because of MaxConnections;
	// nil: nobody does.
	Full func()
	// Tasks hears of handlers that panic.
	Tasks *task.Reporter
}

// Server serves the management endpoint on one socket, which it closes when
// Serve returns.
type Server struct {
	options Options
	door    *door

	mu   sync.Mutex
	http *http.Server // nil: it does not serve yet
}

// New makes the server. The socket is the server's from here on.
func New(socket net.Listener, o Options) *Server {
	return &Server{options: o, door: newDoor(socket, o.Full)}
}

func (s *Server) String() string { return "admin" }

// Bounds of a management request: it is small, and its client is near.
const (
	requestTimeout = 10 * time.Second
	answerTimeout  = time.Minute // pprof's profiles set their own
	maxHeader      = 16 << 10
	shutdownGrace  = 2 * time.Second
)

// Serve answers requests until ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	door := s.door
	server := &http.Server{
		Handler:   door.occupied(s.contained(s.guarded(s.turned(s.handler())))),
		ConnState: door.state,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), endingKey{}, ctx.Done())
		},
		ConnContext:       door.connContext,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
	s.serving(server)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(door)
	if !stop() {
		<-stopped
		return ctx.Err()
	}
	if errors.Is(err, net.ErrClosed) {
		return errors.Join(suture.ErrDoNotRestart, err)
	}
	return err
}

// endingKey is the context key of a channel that is closed when the endpoint is
// about to end: other requests are answered then, and streams go to its successor.
type endingKey struct{}

func ending(ctx context.Context) <-chan struct{} {
	over, _ := ctx.Value(endingKey{}).(<-chan struct{})
	return over
}

// contained turns a handler's panic into a count and a log line with its stack,
// and hangs up.
func (s *Server) contained(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.hangUp(r)
		next.ServeHTTP(w, r)
	})
}

// hangUp is deferred. http.ErrAbortHandler is a handler's own way to hang up.
func (s *Server) hangUp(r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler { //nolint:errorlint // the value itself is panicked with
		_ = s.options.Tasks.Panicked(r.Context(), "admin", p, slog.String("path", r.URL.Path))
	}
	panic(http.ErrAbortHandler)
}

// handler maps the paths. Everything but the API answers GET and HEAD alone.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	s.routes(mux)
	if s.options.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
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
	answer := []string{"ready"}
	if s.options.Degraded != nil {
		for _, what := range s.options.Degraded() {
			answer = append(answer, "degraded: "+what)
		}
	}
	text(w, http.StatusOK, strings.Join(answer, "\n"))
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, body) // the client left: nothing to do
}
