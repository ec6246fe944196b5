package e2e

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// tab is a page in a Chromium with a fresh profile.
type tab struct {
	t   *testing.T
	ctx context.Context
}

type act = chromedp.Action[chromedp.Void]

// browse opens a page. What its console says fails the test: a policy that the
// page itself breaks is said there.
func browse(t *testing.T, url string) tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program(t, "chromium", "chromium")), chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute))
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	b := tab{t, ctx}
	b.do(chromedp.EmulateViewport(1280, 1000))
	if err := chromedp.Listen(ctx, func(event any) {
		switch event := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page: %v", event.ExceptionDetails)
		case *runtime.EventConsoleAPICalled:
			t.Errorf("the console: %v", event.Args)
		}
	}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(url))
	return b
}

func (b tab) do(acts ...act) {
	b.t.Helper()
	for _, a := range acts {
		if _, err := chromedp.Run(b.ctx, a); err != nil {
			b.t.Fatal(err)
		}
	}
}

// ask evaluates an expression in the page.
func ask[T any](b tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for an expression to be true in the page.
func (b tab) until(expression string) {
	b.t.Helper()
	eventually(b.t, expression, func() bool { return ask[bool](b, "Boolean("+expression+")") })
}

// visible waits for an element, by its CSS selector.
func (b tab) visible(selector string) {
	b.t.Helper()
	b.until("document.querySelector(" + strconv.Quote(selector) + ")?.getClientRects().length")
}

// press types into an element, as a person at a keyboard does.
func (b tab) press(selector, keys string) {
	b.t.Helper()
	b.until("(e => e && (e.focus(), document.activeElement === e))(document.querySelector(" + strconv.Quote(selector) + "))")
	b.do(chromedp.KeyEvent(keys))
}

// shot keeps a picture where CLEVERSOCKS_SCREENSHOTS says, for people.
func (b tab) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("CLEVERSOCKS_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(90))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".jpg"), picture, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// scheme has the page believe that the person likes it light or dark.
func scheme(value string) act {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}},
		})
		return err
	})
}

// An operator logs in, sees sessions and denials, filters, and closes one by
// keyboard; on a phone nothing is wider than the page.
func TestStatusPage(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	for range 40 {
		c, _ := connect2(t, d)
		defer c.Close()
	}
	denied := login(t, d.address, "127.0.0.1", "alice", "correct horse")
	if _, err := denied.Write([]byte{5, 1, 0, 1, 127, 0, 0, 9, 0, 80}); err != nil {
		t.Fatal(err)
	}
	readReply(t, denied)
	b := browse(t, "http://"+d.admin+"/")
	b.do(scheme("light"))
	b.visible("#login")
	b.shot("login")
	b.press("#token", "not the token\r")
	b.until(`$("login-error").textContent.includes("not the token")`)
	_ = ask[string](b, `$("token").value = ""`)
	b.press("#token", adminToken+"\r")
	b.visible("#rows .row")
	b.visible("#denials details")
	b.until(`$("session-count").textContent === "40"`)
	b.until(`$("rate").textContent.endsWith("/s")`)
	if n := ask[int](b, `document.querySelectorAll("#rows .row").length`); n < 5 || n > 30 {
		t.Errorf("%d rows of 40 are drawn", n)
	}
	if first := ask[string](b, `$("denials").textContent`); !strings.Contains(first, "user alice from 127.0.0.1 may not connect to 127.0.0.9:80") {
		t.Errorf("the denial: %q", first)
	}
	b.shot("light")
	b.legible("light")
	b.do(scheme("dark"))
	b.shot("dark")
	b.legible("dark")
	b.do(chromedp.EmulateViewport(390, 844))
	b.shot("phone")
	if wide := ask[int](b, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("%d pixels wide on a phone of 390", wide)
	}
	if p := ask[string](b, `fetch("/").then(r => r.headers.get("Content-Security-Policy"))`); !strings.Contains(p, "default-src 'none'") || strings.Contains(p, "unsafe") {
		t.Errorf("policy %q", p)
	}
	b.closeOne()
	d.find("of a revoked session", func(l line) bool { return l["msg"] == "connection" && l["cause"] == "revoked" })
}

// closeOne closes a session by keyboard.
func (b tab) closeOne() {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(1280, 1000))
	b.press("#filter", "alice")
	b.press("#rows .row button", "\r")
	b.until(`$("ask").open`)
	b.shot("question")
	b.do(chromedp.KeyEvent("\t"), chromedp.KeyEvent("\r"))
	b.until(`$("message").textContent.startsWith("Closed")`)
	b.until(`$("session-count").textContent === "39"`)
}

// legible has each text stand out from what is behind it by 4.5 to 1, and each
// control's edge by 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11).
func (b tab) legible(scheme string) {
	b.t.Helper()
	faint := ask[string](b, `(() => {
		const channels = c => { const m = c.match(/[\d.]+/g).map(Number); return m.length === 4 && m[3] === 0 ? null : m; };
		const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
		const behind = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
		const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((a, b) => b - a); return (x + .05) / (y + .05); };
		const found = [];
		for (const e of document.querySelectorAll("body *")) {
			if (!e.getClientRects().length || e.disabled) continue;
			const style = getComputedStyle(e);
			if ([...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) {
				const r = ratio(channels(style.color), behind(e));
				if (r < 4.5) found.push(r.toFixed(2) + " " + e.outerHTML.slice(0, 80));
			}
			if (e.matches("input, button") && style.borderTopWidth !== "0px") {
				const r = ratio(channels(style.borderTopColor), behind(e.parentElement));
				if (r < 3) found.push(r.toFixed(2) + " the edge of " + e.outerHTML.slice(0, 80));
			}
		}
		return found.join("\n");
	})()`)
	if faint != "" {
		b.t.Errorf("hard to read when it is %s:\n%s", scheme, faint)
	}
}

// Every control has a name for a screen reader. Where nobody has a token the page
// says what it cannot show.
func TestStatusPageForScreenReaders(t *testing.T) {
	figures := browse(t, "http://"+start(t, "").admin+"/")
	figures.visible("#no-api")
	figures.until(`$("login").hidden && $("private").hidden && $("rate").textContent.endsWith("/s")`)
	d := start(t, withAPI(t, apiSettings))
	b := browse(t, "http://"+d.admin+"/")
	b.visible("#login")
	if nameless := ask[string](b, `[...document.querySelectorAll("button, input, svg, section, table, [role=table], [tabindex]")].filter(e => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim() || e.labels?.length || e.id === "private")).map(e => e.outerHTML).join("\n")`); nameless != "" {
		t.Errorf("without a name:\n%s", nameless)
	}
	if lang := ask[string](b, `document.documentElement.lang`); lang != "en" {
		t.Errorf("language %q", lang)
	}
}

// At 10,000 sessions the page draws those in view.
func TestStatusPageWithManySessions(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	b := browse(t, "http://"+d.admin+"/")
	b.visible("#login")
	b.press("#token", adminToken+"\r")
	b.visible("#table")
	b.press("#pause", "\r")
	took := ask[float64](b, `(() => {
		const t = performance.now();
		sessions = Array.from({length: 10000}, (_, i) => ({id: "s" + i, listener: "l", client: "192.0.2.1:" + i, started: new Date().toISOString(), user: "u" + i % 100, target: "host" + i + ".example:443", bytes_in: i, bytes_out: 2 * i, rate_in: i % 7, rate_out: 0}));
		arrange(); $("scroll").scrollTop = 100000; rows();
		return performance.now() - t;
	})()`)
	if n := ask[int](b, `document.querySelectorAll("#rows .row").length`); n == 0 || n > 40 {
		t.Errorf("%d rows are drawn", n)
	}
	b.shot("many")
	t.Logf("10,000 sessions sorted and drawn in %.0f ms", took)
}

// An operator disables a user on the page, is asked first, and lets the user in
// again. A user of the configuration has no button.
func TestStatusPageUsers(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := withUsers(t, filepath.Join(t.TempDir(), "users"), "bob:"+cheapHash(t, "x")+":quota = { bytes = \"1GiB\" }\n",
		"allow_plain_passwords = true\n[[user]]\nname = \"toml\"\npassword = \"y\"\n")
	bob := open(t, d, "bob", "x", echo)
	b := browse(t, "http://"+d.admin+"/")
	b.visible("#login")
	b.press("#token", adminToken+"\r")
	b.until(`$("users").textContent.includes("bobok1")`)
	if n := ask[int](b, `document.querySelectorAll("#users button[aria-label^=Disable]").length`); n != 1 {
		t.Errorf("%d buttons", n)
	}
	b.until(`document.querySelector("#users button[aria-label='Reset the usage of bob']")`)
	b.press(`#users button[aria-label="Reset the usage of bob"]`, "\r")
	b.press(`#ask button[value="yes"]`, "\r")
	b.until(`$("message").textContent === "The quota of bob begins anew."`)
	b.shot("users")
	b.do(chromedp.EmulateViewport(390, 844))
	if wide := ask[int](b, `document.documentElement.scrollWidth`); wide > 390 {
		t.Errorf("%d pixels wide on a phone of 390", wide)
	}
	b.shot("users-phone")
	b.press(`#users button[aria-label="Disable bob"]`, "\r")
	b.until(`$("ask").open && $("ask-text").textContent === "Disable bob and end 1 connections?"`)
	b.press(`#ask button[value="yes"]`, "\r")
	b.until(`$("message").textContent === "Disabled bob. 1 connections ended."`)
	if _, err := bob.Read(make([]byte, 1)); err == nil || letsIn(t, d.address, "bob", "x") {
		t.Error("bob goes on")
	}
	b.until(`$("users").textContent.includes("bobdisabled0")`)
	b.press(`#users button[aria-label="Enable bob"]`, "\r")
	b.press(`#ask button[value="yes"]`, "\r")
	b.until(`$("users").textContent.includes("bobok0")`)
	open(t, d, "bob", "x", echo)
}

// Names that are HTML, that turn the text around them or that are as long as a name may
// be show as what they are: a listener's turned the header around, a user's pushed all
// that the page says of users out of sight. On a tablet the list had no place for Close.
func TestStatusPageWithOddNames(t *testing.T) {
	const marked, turned = `<img src=x onerror=alert(1)>`, "\u05e9\u05dc\u05d5\u05dd\u202eabc"
	long := strings.Repeat("u", 255)
	users := ""
	for _, name := range []string{marked, turned, long} {
		users += "[[user]]\nname = " + strconv.Quote(name) + "\npassword = \"x\"\n"
	}
	d := start(t, withAPI(t, "[auth]\nallow_plain_passwords = true\n"+users))
	b := browse(t, "http://"+d.admin+"/")
	b.visible("#login")
	b.press("#token", adminToken+"\r")
	b.until(`$("user-count").textContent === "3"`)
	b.until(`!$("none").hidden && $("none").textContent === "None"`)
	if shown := ask[string](b, `$("users").textContent`); !strings.Contains(shown, marked) || !strings.Contains(shown, `\u202eabc`) || strings.Contains(shown, "\u202e") {
		t.Errorf("users: %q", shown)
	}
	echo := echoServer(t, "127.0.0.1:0")
	for _, name := range []string{long, turned} {
		c := login(t, d.address, "127.0.0.1", name, "x")
		if reply := request(t, c, 1, echo); reply != succeeded {
			t.Fatalf("reply %d", reply)
		}
	}
	b.until(`$("session-count").textContent === "2" && $("none").hidden`)
	for _, width := range []int64{360, 720, 800, 930, 1400} {
		b.do(chromedp.EmulateViewport(width, 900))
		b.until(`innerWidth === ` + strconv.FormatInt(width, 10))
		b.until(`document.querySelectorAll("#rows button").length === 2`)
		if hidden := ask[string](b, `[...document.querySelectorAll("#rows .target, #rows .user, #rows .close button, #users td:nth-child(2)")].filter(e => {
			const r = e.getBoundingClientRect(), card = e.closest(".card").getBoundingClientRect();
			return r.width < 8 || r.left < card.left || r.right > card.right;
		}).map(e => e.outerHTML).join("\n")`); hidden != "" {
			t.Errorf("out of sight at %d pixels:\n%s", width, hidden)
		}
	}
}

// below puts an endpoint under a prefix of another server, as a reverse proxy does.
func below(t *testing.T, address, prefix string) string {
	t.Helper()
	to := &url.URL{Scheme: "http", Host: address}
	front := httptest.NewServer(http.StripPrefix(prefix, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}))
	t.Cleanup(front.Close)
	return front.URL + prefix + "/"
}

// The list is one stop of the keyboard's way, and a row that somebody points at or
// has chosen stays where it is while others come and go: sorted anew under the
// mouse, another session would be closed than the one that was meant. The page is
// under a prefix here, where a dashboard asked for its data at the top
// (traefik#409, #591, #1081).
func TestStatusPageHoldsStill(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, withAPI(t, apiSettings)+"hosts = [\"127.0.0.1\"]\n[[listener]]\naddress = \"127.0.0.1:0\"\n")
	var conns []net.Conn
	for range 5 {
		c := login(t, d.address, "127.0.0.1", "alice", "correct horse")
		if code := request(t, c, 1, echo); code != succeeded {
			t.Fatalf("reply %d", code)
		}
		conns = append(conns, c)
	}
	b := browse(t, below(t, d.admin, "/ops"))
	b.visible("#login")
	b.press("#token", adminToken+"\r")
	b.until(`$("session-count").textContent === "5"`)
	b.press("#columns [data-key=started] button", "\r")
	b.press("#table", kb.ArrowDown+kb.ArrowDown)
	b.until(`document.getElementById($("table").getAttribute("aria-activedescendant"))?.getAttribute("aria-selected") === "true"`)
	before := ask[string](b, `shown.map(s => s.id).join()`)
	conns[4].Close() // the newest, and the last row
	extra := login(t, d.address, "127.0.0.1", "alice", "correct horse")
	request(t, extra, 1, echo)
	b.until(`document.querySelectorAll("#rows .ended").length === 1`)
	if now := ask[string](b, `shown.map(s => s.id).join()`); now != before {
		t.Errorf("the order was %s and is %s", before, now)
	}
	// A key of the debugger's is pressed and typed, and typed once more in the dialog.
	_ = ask[bool](b, `$("table").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}))`)
	b.until(`$("one").open && $("about-one").textContent.includes("acl.rules[1]")`)
	b.shot("details")
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`!$("one").open`)
	b.press("#table", kb.Delete)
	b.until(`$("ask").open && $("ask-text").textContent.startsWith("Close the connection of alice to")`)
	b.press("#ask-yes", "\r")
	if _, err := conns[1].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the chosen one: %v", err)
	}
	b.press("#filter", "nobody")
	b.until(`shown.length === 0`)
	b.do(chromedp.KeyEvent(kb.Escape))
	b.until(`shown.length === 4 && !document.querySelector("#rows .ended")`)
}
