package supervisor

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// TestTreeThatDoesNotEnd: the last wait of the shutdown was for as long as the
// longest drain, a day, where a service hung.
func TestTreeThatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{log: slog.New(slog.DiscardHandler), failed: make(chan error)}
		began := time.Now()
		if d.awaitTree(t.Context()) {
			t.Error("it has not ended")
		}
		if took := time.Since(began); took != coreTimeout {
			t.Errorf("it took %s", took)
		}
	})
}
