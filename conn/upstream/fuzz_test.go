package upstream

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"cleversocks/conn/wire"
)

// both is a peer whose answers are fixed.
type both struct {
	io.Reader
	io.Writer
}

func FuzzSOCKS5Negotiate(f *testing.F) {
	f.Add([]byte{5, 0})
	f.Add([]byte{5, 2, 1, 0})
	f.Add([]byte{5, 0xff})
	hop, err := ParseHop("socks5://user:hunter2@192.0.2.1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		fail := socks5Negotiate(both{r, io.Discard}, hop)
		read := in[:len(in)-r.Len()]
		if fail == nil && (len(read) != 2 && len(read) != 4 || read[0] != 5) {
			t.Fatalf("agreed to %x", read)
		}
		if fail != nil && strings.Contains(fail.Error(), "hunter2") {
			t.Fatal(fail)
		}
	})
}

func FuzzReadSOCKS5Reply(f *testing.F) {
	f.Add([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80, 'x'})
	f.Add([]byte{5, 0, 0, 3, 1, 'a', 0, 80})
	f.Add([]byte{5, 5, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		code, bound, err := readSOCKS5Reply(r)
		if err != nil || code != wire.ReplySucceeded {
			return
		}
		read := in[:len(in)-r.Len()]
		if len(read) < 7 || len(read) > 4+1+255+2 {
			t.Fatalf("success out of %d bytes", len(read))
		}
		if bound.IsName() && bound.IP.IsValid() {
			t.Fatalf("bound %+v", bound)
		}
	})
}

func FuzzParseForward(f *testing.F) {
	f.Add("example.org:443,user:pass@proxy.example:1080,target.example:8443")
	f.Add("*:0,proxy.example:1080,*:0")
	f.Fuzz(func(t *testing.T, spec string) {
		up, rule, err := ParseForward(spec, "f")
		if err != nil {
			return
		}
		if _, err := ParseHop(up.Via[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := parseRewrite(rule.Rewrite); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseMembers(f *testing.F) {
	f.Add([]byte("# x\nsocks5://a:1\n"))
	f.Add([]byte(`["https://b"]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		urls, err := parseMembers(in)
		if err != nil {
			return
		}
		for _, u := range urls {
			if _, err := ParseHop(u); err != nil {
				t.Fatal(err)
			}
		}
	})
}
