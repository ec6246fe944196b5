//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"
)

// browse opens the status page in Chromium, and logs in. The browser ends with ctx.
func (p *page) browse(ctx context.Context) error {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WSURLReadTimeout(time.Minute), chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) { p.chrome = cmd }))
	allocator, cancel := chromedp.NewExecAllocator(ctx, options...)
	context.AfterFunc(ctx, cancel)
	p.ctx, cancel = chromedp.NewContext(allocator)
	context.AfterFunc(ctx, cancel)
	for _, a := range []chromedp.Action[chromedp.Void]{
		chromedp.EmulateViewport(1280, 1000), chromedp.Navigate("http://" + p.admin + "/"),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, performance.Enable, performance.EnableParams{})
			return err
		}),
	} {
		if _, err := chromedp.Run(p.ctx, a); err != nil { //nolint:contextcheck // the tab is its context
			return fmt.Errorf("chromium: %w", err)
		}
	}
	if _, err := evaluate[string](p, `sessionStorage.setItem("token", `+strconv.Quote(pageToken)+`), location.reload(), ""`); err != nil {
		return err
	}
	return p.await(ctx)
}

// evaluate runs a script in the page.
func evaluate[T any](p *page, script string) (T, error) {
	return chromedp.Run(p.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// tabFigures are the tab's own figures, by name; times are seconds.
func (p *page) tabFigures() (map[string]float64, error) {
	figures := make(map[string]float64)
	if p.ctx == nil {
		return figures, nil
	}
	_, err := chromedp.Run(p.ctx, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		all, err := cdp.Call(ctx, t, performance.GetMetrics, cdp.Empty{})
		for _, m := range all.Metrics {
			figures[m.Name] = m.Value
		}
		return err
	}))
	return figures, err
}
