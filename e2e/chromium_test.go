package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"testing"
)

// byProxy are the options of Chromium that make it take a proxy, for loopback too.
func byProxy(proxy string) []string {
	return []string{"--proxy-server=" + proxy, "--proxy-bypass-list=<-loopback>"}
}

// dump is what a new Chromium shows of a page, and what it says on standard error.
func dump(t *testing.T, environ []string, page string, options ...string) (shown, said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "chromium", "chromium"), append(append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--ignore-certificate-errors",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir=" + t.TempDir(), "--dump-dom",
	}, options...), page)...)
	cmd.Env = append(os.Environ(), environ...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}
