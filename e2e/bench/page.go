//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/chromedp"
)

const (
	// pageSessions are the tunnels that the status page lists: the number that it
	// is made for.
	pageSessions = 10_000
	// pageRate is how many of them move bytes in a second.
	pageRate = 1000
	// pageLook is how long each figure is taken over.
	pageLook = 20 * time.Second
	// pageToken is the token of the daemon's API.
	pageToken = "a token of the benchmark"
)

// pageSettings are the daemon's; the token's file and the endpoint are filled in.
const pageSettings = `
[limits]
max_connections = 12000
[log]
access = "off"
level = "warn"
[acl]
block_private = false
[[listener]]
address = %q
[admin]
address = %q
token_file = %q
`

// page is a run of measurePage.
type page struct {
	i        *instance
	admin    string
	carriers []*carrier
	chrome   *exec.Cmd
	ctx      context.Context //nolint:containedctx // the browser's tab
}

// measurePage says what it costs to watch 10,000 tunnels, of which some move
// bytes all the time: the daemon, without a page and with one, and Chromium. The
// tunnels are streams of HTTP/2, as one process's descriptors do not carry so many
// sockets on many machines.
func measurePage(ctx context.Context, o options, dir string) error {
	p := &page{}
	if err := p.start(ctx, o, dir); err != nil {
		return err
	}
	defer p.i.stop()
	s, err := serve(echo)
	if err != nil {
		return err
	}
	defer s.close()
	var w workers
	defer func() {
		for _, c := range p.carriers {
			_ = c.conn.Close()
		}
		_ = w.wait() // the end was ours
	}()
	for range pageSessions / streamsEach {
		c, err := carry(ctx, &w, p.i.address, s.addr().String(), streamsEach)
		if err != nil {
			return errors.Join(err, p.i.failure())
		}
		p.carriers = append(p.carriers, c)
	}
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	w.run(func() error { p.load(loaded); return nil })
	if err := p.span(ctx, "nobody watches"); err != nil {
		return err
	}
	if err := p.browse(ctx); err != nil {
		return err
	}
	return p.watch(ctx)
}

// start runs the daemon.
func (p *page) start(ctx context.Context, o options, dir string) error {
	binary := o.ours
	if binary == "" {
		binary = filepath.Join(dir, "cleversocks")
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	p.admin = fmt.Sprintf("127.0.0.1:%d", port)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(pageToken+"\n"), 0o600); err != nil {
		return err
	}
	p.i, err = proxy{name: "cleversocks", command: []string{binary, "--config", "{config}"}, config: func(i *instance) string {
		return fmt.Sprintf(pageSettings, i.address, p.admin, token)
	}}.start(ctx)
	return err
}

// load has tunnels move bytes until ctx ends.
func (p *page) load(ctx context.Context) {
	data := make([]byte, 500)
	tick := time.NewTicker(time.Second / pageRate)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		_ = p.carriers[rand.N(len(p.carriers))].send(rand.N(streamsEach), data) // the page's figures would tell
	}
}

// span says what the daemon and the browser take meanwhile, of one core.
func (p *page) span(ctx context.Context, what string) error {
	daemon, err := p.i.usage.cpuTime()
	if err != nil {
		return err
	}
	browser := p.browserTime()
	tab, err := p.tabFigures()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := pause(ctx, pageLook); err != nil {
		return err
	}
	passed := time.Since(begin).Seconds()
	after, err := p.i.usage.cpuTime()
	if err != nil {
		return err
	}
	f, err := p.i.usage.footprint()
	if err != nil {
		return err
	}
	fmt.Printf("- %s: the daemon %.1f %% of a core, %d MB", what, 100*(after-daemon).Seconds()/passed, f.user>>20)
	if p.chrome != nil {
		now, err := p.tabFigures()
		if err != nil {
			return err
		}
		fmt.Printf("; Chromium %.1f %% with all its processes, the page's main thread %.1f %%, %.0f MB of script's memory",
			100*(p.browserTime()-browser).Seconds()/passed, 100*(now["TaskDuration"]-tab["TaskDuration"])/passed, now["JSHeapUsedSize"]/(1<<20))
	}
	fmt.Println()
	return nil
}

func (p *page) browserTime() time.Duration {
	if p.chrome == nil {
		return 0
	}
	var sum time.Duration
	for _, pid := range descendants(p.chrome.Process.Pid) {
		if t, err := processTime([]int{pid}); err == nil { // one that has ended meanwhile is none of the page's
			sum += t
		}
	}
	return sum
}

// watch uses the page as a person does.
func (p *page) watch(ctx context.Context) error {
	if err := p.span(ctx, "the page is open, and nobody touches it"); err != nil {
		return err
	}
	for _, act := range []struct{ what, script string }{
		{"to sort by another column", `measure(() => document.querySelector("#columns button[data-key=bytes_in], #columns [data-key=bytes_in] button").click())`},
		{"to filter by a part of the target", `measure(() => { $("filter").value = "127.0.0.1:4"; $("filter").dispatchEvent(new Event("input")); })`},
		{"to show all again", `measure(() => { $("filter").value = ""; $("filter").dispatchEvent(new Event("input")); })`},
	} {
		took, err := evaluate[float64](p, measuring+act.script)
		if err != nil {
			return err
		}
		fmt.Printf("- %s: %.0f ms until it is drawn\n", act.what, took)
	}
	frames, err := evaluate[[]float64](p, scrolling)
	if err != nil {
		return err
	}
	fmt.Printf("- to scroll through all of them in %.0f frames: median %.1f ms a frame, 99 %% below %.1f, the longest %.1f\n", frames[0], frames[1], frames[2], frames[3])
	if to := os.Getenv("CLEVERSOCKS_SCREENSHOTS"); to != "" {
		picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(90)) //nolint:contextcheck // the tab is its context
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, "many-real.jpg"), picture, 0o600)
	}
	return nil
}

// measuring is how long something takes with the frame that shows it.
const measuring = `window.measure ??= act => new Promise(done => requestAnimationFrame(() => {
	const begin = performance.now();
	act();
	requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin)));
}));
`

// scrolling goes through the whole list and returns how many frames that took,
// and their times: median, 99th of 100, and the longest.
const scrolling = `new Promise(done => {
	const box = $("scroll"), times = [], steps = 240, step = (box.scrollHeight - box.clientHeight) / steps;
	box.scrollTop = 0;
	let before = 0;
	const next = now => {
		if (before) times.push(now - before);
		before = now;
		box.scrollTop += step;
		if (times.length < steps) return requestAnimationFrame(next);
		times.sort((a, b) => a - b);
		done([times.length, times[times.length >> 1], times[Math.floor(times.length * .99)], times.at(-1)]);
	};
	requestAnimationFrame(next);
})`

// awaited is true once the page lists all.
const awaited = `document.getElementById("session-count")?.textContent.startsWith("10,")`

// await waits for the page to list all.
func (p *page) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		there, err := evaluate[bool](p, "Boolean("+awaited+")")
		if err != nil || there {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			said, _ := evaluate[string](p, "document.body.innerText")
			return fmt.Errorf("the page never lists all sessions: %.500s", strings.TrimSpace(said))
		}
	}
}
