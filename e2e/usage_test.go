package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Who used what reaches the endpoint, each event once by its id, over an outage
// of the endpoint and a daemon that is killed in it.
func TestUsageIsPushed(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	var mu sync.Mutex
	dead := false
	events := make(map[string]line)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var batch struct{ Events []line }
		if dead || r.Header.Get("Authorization") != "Bearer sesame-sesame" || json.NewDecoder(r.Body).Decode(&batch) != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for _, e := range batch.Events {
			if _, twice := events[e.text("id")]; twice {
				t.Errorf("twice, though it was taken: %v", e)
			}
			events[e.text("id")] = e
		}
	}))
	defer endpoint.Close()
	count := func(kind string) (n int, bytes float64) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if e.text("type") == kind && e.text("user") == "alice" {
				in, _ := e["bytes_in"].(float64)
				n, bytes = n+1, bytes+in
			}
		}
		return n, bytes
	}
	token := writeFile(t, "token", "sesame-sesame\n")
	toml := fmt.Sprintf("[usage]\nurl = %q\ninterval = \"1s\"\ntoken_file = %q\n[state]\ndirectory = %q\n[[user]]\nname = \"alice\"\npassword_hash = %q\n",
		endpoint.URL, token, t.TempDir(), cheapHash(t, "x"))
	d := start(t, toml)
	mustCurl(t, "--proxy", d.via("alice", "x"), web.URL)
	eventually(t, "opened, closed and usage", func() bool {
		opened, _ := count("opened")
		closed, bytes := count("closed")
		_, used := count("usage")
		return opened == 1 && closed == 1 && used == bytes && bytes > 0
	})
	mu.Lock()
	dead = true
	mu.Unlock()
	mustCurl(t, "--proxy", d.via("alice", "x"), web.URL)
	d.waitMessage("usage events wait: they cannot be pushed")
	_ = d.Cmd.Process.Kill()
	<-d.Exited
	mu.Lock()
	dead = false
	mu.Unlock()
	again := start(t, toml)
	eventually(t, "what waited", func() bool { closed, _ := count("closed"); return closed == 2 })
	again.settles(`cleversocks_usage_spool_bytes`, "0")
	if got := again.metric(`cleversocks_usage_spool_bytes`); got != "0" {
		t.Errorf("%s bytes wait", got)
	}
}
