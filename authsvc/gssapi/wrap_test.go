package gssapi

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/types"
)

func newKey(etype int32) types.EncryptionKey {
	size := map[int32]int{17: 16, 18: 32, 19: 16, 20: 32}[etype]
	key := types.EncryptionKey{KeyType: etype, KeyValue: make([]byte, size)}
	rand.Read(key.KeyValue)
	return key
}

// ends are the two ends of a context.
func ends(tb testing.TB, key types.EncryptionKey) (client, server *Context) {
	tb.Helper()
	client, err := NewContext(key, true, 7, 1<<31)
	if err != nil {
		tb.Fatal(err)
	}
	server, err = NewContext(key, false, 1<<31, 7)
	if err != nil {
		tb.Fatal(err)
	}
	return client, server
}

// What is written here for speed is what the library does, of every length
// that ciphertext stealing treats differently.
func TestCipherIsTheLibrarys(t *testing.T) {
	for etype := range etypes {
		key := newKey(etype)
		d, err := newDirectional(key, 24)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			plain := bytes.Repeat([]byte{byte(n)}, n)
			buf := make([]byte, block+n, block+n+64)
			copy(buf[block:], plain)
			got, err := crypto.DecryptMessage(d.seal(buf), key, 24)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("etype %d, %d bytes: the library reads %x, %v", etype, n, got, err)
			}
			theirs, err := crypto.GetEncryptedData(plain, key, 24, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got, err = d.open(theirs.Cipher); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("etype %d, %d bytes: read as %x, %v", etype, n, got, err)
			}
		}
		et, _ := crypto.GetEtype(etype)
		want, err := et.GetChecksumHash(key.KeyValue, []byte("abc"), 24)
		if err != nil || !bytes.Equal(d.check([]byte("a"), []byte("bc")), want) {
			t.Errorf("etype %d: another checksum, %v", etype, err)
		}
	}
}

func TestWrap(t *testing.T) {
	for etype := range etypes {
		for _, seal := range []bool{false, true} {
			client, server := ends(t, newKey(etype))
			for n := range 70 {
				message := bytes.Repeat([]byte("x"), n*n)
				token := client.Wrap(nil, message, seal)
				if len(token) != len(message)+client.Overhead(seal) {
					t.Fatalf("etype %d: %d bytes for %d", etype, len(token), len(message))
				}
				got, sealed, err := server.Unwrap(rotated(token, n))
				if err != nil || sealed != seal || !bytes.Equal(got, message) {
					t.Fatalf("etype %d, seal %v, %d bytes: %v", etype, seal, len(message), err)
				}
			}
			token := server.Wrap([]byte("in front"), []byte("back"), seal)
			if got, _, err := client.Unwrap(token[8:]); err != nil || string(got) != "back" {
				t.Errorf("%q, %v", got, err)
			}
		}
	}
}

// rotated turns a token's body to the right, as Heimdal does.
func rotated(token []byte, rrc int) []byte {
	body := token[headerLen:]
	n := rrc % len(body)
	turned := append(bytes.Clone(body[len(body)-n:]), body[:len(body)-n]...)
	copy(body, turned)
	token[6], token[7] = byte(rrc>>8), byte(rrc)
	return token
}

// A token that was changed, sent twice, sent back, or left out is refused.
func TestUnwrapRefuses(t *testing.T) {
	for etype := range etypes {
		for _, seal := range []bool{false, true} {
			client, server := ends(t, newKey(etype))
			token := client.Wrap(nil, []byte("message"), seal)
			for i := range token {
				for _, bit := range []byte{1, 0x80} {
					changed := bytes.Clone(token)
					changed[i] ^= bit
					if _, _, err := server.Unwrap(changed); err == nil {
						t.Errorf("etype %d, seal %v: byte %d changed, taken", etype, seal, i)
					}
				}
				if _, _, err := server.Unwrap(bytes.Clone(token[:i])); err == nil {
					t.Errorf("cut at %d, taken", i)
				}
			}
			if _, _, err := client.Unwrap(bytes.Clone(token)); err == nil {
				t.Error("taken by its sender")
			}
			if _, _, err := server.Unwrap(bytes.Clone(token)); err != nil {
				t.Error(err)
			}
			if _, _, err := server.Unwrap(bytes.Clone(token)); !errors.Is(err, errSequence) {
				t.Error("taken twice", err)
			}
			client.Wrap(nil, nil, seal)
			if _, _, err := server.Unwrap(client.Wrap(nil, nil, seal)); !errors.Is(err, errSequence) {
				t.Error("one is missing, and nobody notices")
			}
		}
	}
}

// Datagrams may be lost and overtake each other, and are taken once.
func TestDatagrams(t *testing.T) {
	client, server := ends(t, newKey(18))
	first := client.Wrap(nil, []byte("request"), true)
	if _, _, err := server.Unwrap(bytes.Clone(first)); err != nil {
		t.Fatal(err)
	}
	server.Datagrams()
	var tokens [][]byte
	for i := range 200 {
		tokens = append(tokens, client.Wrap(nil, fmt.Append(nil, i), true))
	}
	for _, step := range []struct {
		i  int
		ok bool
	}{{0, true}, {0, false}, {5, true}, {3, true}, {3, false}, {5, false}, {70, true}, {6, false}, {7, true}, {69, true}, {199, true}, {136, true}, {135, false}, {199, false}} {
		if _, _, err := server.Unwrap(bytes.Clone(tokens[step.i])); (err == nil) != step.ok {
			t.Errorf("datagram %d: %v", step.i, err)
		}
	}
	if _, _, err := server.Unwrap(first); err == nil {
		t.Error("the request is taken once more")
	}
}

func FuzzUnwrap(f *testing.F) {
	client, server := ends(f, types.EncryptionKey{KeyType: 18, KeyValue: make([]byte, 32)})
	f.Add(client.Wrap(nil, []byte("sealed"), true))
	f.Add(client.Wrap(nil, []byte("not sealed"), false))
	f.Add([]byte{5, 4, 2, 0xff, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, token []byte) {
		server.want = 7
		_, _, _ = server.Unwrap(token)
	})
}

// BenchmarkWrap is both directions of a relay's work, with buffers used again.
func BenchmarkWrap(b *testing.B) {
	for _, etype := range []int32{17, 18, 19, 20} {
		for _, seal := range []bool{false, true} {
			b.Run(fmt.Sprintf("etype=%d/seal=%v", etype, seal), func(b *testing.B) {
				client, server := ends(b, newKey(etype))
				message, buf := make([]byte, 32<<10), make([]byte, 0, 34<<10)
				b.SetBytes(int64(len(message)))
				b.ReportAllocs()
				for b.Loop() {
					server.want = client.next
					buf = client.Wrap(buf[:0], message, seal)
					if _, _, err := server.Unwrap(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
