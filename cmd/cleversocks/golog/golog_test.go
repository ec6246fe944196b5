package golog

import (
	"bytes"
	"log"
	"log/slog"
	"strings"
	"testing"
)

// What a library says before there is a logger is kept, and what it says later
// comes at once.
func TestTo(t *testing.T) {
	log.SetOutput(&captured) // an earlier run of the test has ended it
	t.Cleanup(func() { log.SetOutput(&captured); captured.to = nil })
	log.Printf("early %d", 1)
	var out bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	end := To(t.Context(), logger)
	log.Print("late")
	end()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"level":"DEBUG","msg":"a library says","text":"early 1"`) ||
		!strings.Contains(lines[1], `"level":"WARN","msg":"a library says","text":"late"`) {
		t.Errorf("%s", out.String())
	}
}
