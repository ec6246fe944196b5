package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealthcheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		want   int
		stderr string
	}{
		{"healthy", http.StatusOK, exitDrained, ""},
		{"unhealthy", http.StatusServiceUnavailable, exitFailed, "503"},
		{"a redirect is no answer", http.StatusFound, exitFailed, "302"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan string, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- r.URL.Path
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
			}))
			defer srv.Close()
			var stderr strings.Builder
			a := &app{
				args:     []string{"cleversocks", "healthcheck"},
				environ:  []string{"CLEVERSOCKS_ADMIN__ADDRESS=" + srv.Listener.Addr().String()},
				unsetenv: func(string) error { return nil }, stdout: io.Discard, stderr: &stderr,
			}
			if got := a.run(t.Context()); got != tt.want || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit %d, want %d; %q", got, tt.want, &stderr)
			}
			if path := <-asked; path != "/healthz" {
				t.Errorf("asked for %q", path)
			}
		})
	}
}
