package tlsconf

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/e2e/written"
)

// published is what a keeper has told of dates.
type published struct {
	mu    sync.Mutex
	until map[date]time.Time
}

func (p *published) tell(listener, what string, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[date]time.Time)
	}
	p.until[date{listener, what}] = until
}

func (p *published) at(what string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until[date{"office", what}]
}

// A certificate that nobody renewed was noticed by its users first, and a
// revocation list past its date by nobody: it stays in force, without what was
// revoked since. Both are said once before the end and once at the end, and metrics
// have the date at any time. A renewed one is no news.
func TestDatesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newAuthority(t, "ca"), newFiles(t)
		f.put(t, ca.issue("proxy"))
		write(t, f.ca, certPEM(ca.cert.Raw))
		ca.revoke(f.crl)
		o := Options{Name: "office", Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.crl}
		if warnings, err := Check(o); err != nil || len(warnings) > 0 {
			t.Fatalf("%q, %v", warnings, err)
		}
		log, told := new(written.Text), new(published)
		k := NewKeeper(KeeperOptions{Log: slog.New(slog.NewTextHandler(log, nil)), Expires: told.tell})
		d, err := k.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = k.Serve(ctx) }()
		defer func() { stop(); <-ended }()

		time.Sleep(30 * time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if early := log.String(); early != "" {
			t.Errorf("said early: %s", early)
		}
		if left := time.Until(told.at(datedCRL)); left < 29*time.Minute || left > 31*time.Minute {
			t.Errorf("the list ends in %v", left)
		}
		time.Sleep(20 * time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if n := strings.Count(log.String(), "renew it"); n != 3 {
			t.Errorf("%d warnings before the end: %s", n, log.String())
		}
		time.Sleep(20 * time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		for _, want := range []string{"clients refuse it", "no client is let in", "what was revoked since then is let in"} {
			if n := strings.Count(log.String(), want); n != 1 {
				t.Errorf("%q is said %d times: %s", want, n, log.String())
			}
		}
		if warnings, err := Check(o); err != nil || len(warnings) != 3 {
			t.Errorf("a check says %q, %v", warnings, err)
		}

		_ = log.Take()
		f.put(t, ca.issue("proxy")) // whose authority is over: that is the clients' to find
		time.Sleep(time.Minute)     //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if strings.Contains(log.String(), "the certificate") || time.Until(told.at(datedCertificate)) < 50*time.Minute {
			t.Errorf("renewed, ends in %v: %s", time.Until(told.at(datedCertificate)), log.String())
		}
		d.Close()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if until := told.at(datedCertificate); !until.IsZero() {
			t.Errorf("a closed door's certificate ends at %v", until)
		}
	})
}
