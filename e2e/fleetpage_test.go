package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// The page of one replica shows all of them, and what users have and who is banned
// on all of them, each with the replica's name; so do the commands.
func TestStatusPageOfFleet(t *testing.T) {
	s := startStore(t, true)
	echo := echoServer(t, "127.0.0.1:0")
	all := startFleet(t, s.address, 2)
	mustTunnel(t, all[0].daemon, "127.0.0.1", "alice", echo)
	mustTunnel(t, all[1].daemon, "127.0.0.1", "alice", echo)
	all[1].call("POST", "/api/v1/bans", object{"source": "198.51.100.7", "duration": "5m"}, nil)
	b := browse(t, "http://"+all[0].admin+"/")
	b.visible("#login")
	b.press("#token", adminToken+"\r")
	b.visible("#fleet-card")
	b.until(`$("fleet").rows.length === 2 && $("fleet").rows[0].textContent.startsWith("a (this one)serving") && $("fleet").rows[1].textContent.startsWith("bserving")`)
	b.until(`$("users").textContent.includes("aliceok2/10 (a 1, b 1)")`)
	b.until(`$("bans").textContent.includes("198.51.100.7/32") && $("bans").rows[0].cells[3].textContent === "b"`)
	b.shot("fleet")
	b.do(chromedp.EmulateViewport(390, 844))
	b.shot("fleet-phone")
	if wide := ask[int](b, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("%d pixels wide on a phone of 390", wide)
	}
	for command, want := range map[string][]string{
		"fleet": {"a *", "b ", "1 of"}, "users": {"2 (a 1, b 1)"}, "bans": {"198.51.100.7/32", "b"},
	} {
		out, err := exec.Command(binary, command, "--config", all[0].file, "--admin", all[0].admin).CombinedOutput()
		for _, w := range want {
			if err != nil || !strings.Contains(string(out), w) {
				t.Errorf("%s: no %q: %v\n%s", command, w, err, out)
			}
		}
	}
	s.kill()
	b.until(`$("degraded").textContent.includes("shared state")`)
}
