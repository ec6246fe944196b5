package resolver

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/metrics"
)

// What Known says is what Lookup would, without a server, or nothing.
func TestKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{records: []string{"a.test. 60 IN A 192.0.2.1"}}
		opts := testOptions(t)
		r := withScripts(t, opts, s)
		both := []Family{IPv6, IPv4}
		ask := func(name string, families ...Family) (got []string, known bool) {
			t.Helper()
			answers, known := r.Known(name, families)
			if !known {
				return nil, false
			}
			for i, family := range families {
				if answers[i].Family != family {
					t.Errorf("%s: the answer of %s is said to be of %s", name, family, answers[i].Family)
				}
				for _, a := range answers[i].Addrs {
					got = append(got, a.String())
				}
				if len(answers[i].Addrs) == 0 && !errors.Is(answers[i].Err, ErrNotFound) {
					t.Errorf("%s: no address, and %v", name, answers[i].Err)
				}
			}
			return got, true
		}
		for name, want := range map[string]string{"192.0.2.3": "192.0.2.3", "2001:db8::a": "2001:db8::a", "here": "192.0.2.7"} {
			if got, known := ask(name, both...); !known || len(got) != 1 || got[0] != want {
				t.Errorf("%s: %v, %t", name, got, known)
			}
		}
		if got, known := ask("x.localhost", both...); !known || len(got) != 2 {
			t.Errorf("localhost: %v, %t", got, known)
		}
		if _, known := ask("a.test", both...); known {
			t.Error("known without a question")
		}
		_ = lookup(t, r, "a.test") // in one family
		if _, known := ask("a.test", both...); known {
			t.Error("half an answer was given")
		}
		count := opts.Metrics.Cache.Of(metrics.CacheHit)
		before := count.Get()
		if got, known := ask("a.test", IPv4); !known || len(got) != 1 || count.Get() != before+1 {
			t.Errorf("%v, %t, counted %d times", got, known, count.Get()-before)
		}
		pass(time.Minute)
		if _, known := ask("a.test", IPv4); known {
			t.Error("known past its end")
		}
	})
}
