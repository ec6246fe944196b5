package authsvc

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// Many at once are what they are one after the other, whatever the file looks like.
func TestImportIsManyEdits(t *testing.T) {
	hash := cheap("x", 8)
	rapid.Check(t, func(t *rapid.T) {
		ending := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "ending")
		content := []byte(rapid.SampledFrom([]string{"", "\xef\xbb\xbf"}).Draw(t, "mark"))
		for i := range rapid.IntRange(0, 5).Draw(t, "lines") {
			line := rapid.SampledFrom([]string{"# a remark", "", fmt.Sprintf("u%d:%s", i, hash), fmt.Sprintf("u%d:!%s:max_connections = 1", i, hash)}).Draw(t, "line")
			content = append(content, line+ending...)
		}
		if rapid.Bool().Draw(t, "without an end") {
			content = bytes.TrimSuffix(content, []byte(ending))
		}
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"u0", "u1", "u2", "u3", "u4", "new", "newer"}), 0, 7, rapid.ID).Draw(t, "names")
		got, err := ImportUsers(content, names, func(_ int, l *UserLine, is bool) (bool, error) {
			if is && l.Disabled {
				return false, nil // is left as it is
			}
			l.Hash, l.Attributes = hash, "note = \"x\""
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := content
		for _, name := range names {
			if i, parts := findUser(splitLines(want), name); i < 0 {
				want, err = AddUser(want, UserLine{Name: name, Hash: hash, Attributes: "note = \"x\""})
			} else if !parts.disabled {
				want, err = ChangeUser(want, name, func(l *UserLine) error { l.Attributes = "note = \"x\""; return nil })
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(bytes.TrimRight(got, "\r\n"), bytes.TrimRight(want, "\r\n")) {
			t.Fatalf("%q became %q, want %q", content, got, want)
		}
	})
}
