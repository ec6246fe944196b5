package udprelay

import (
	"testing"

	"pgregory.net/rapid"
)

func TestAging(t *testing.T) {
	a := newAging[string, int](2, 10)
	a.put("x", 1, 0)
	if v, ok := a.get("x", 9); !ok || v != 1 {
		t.Error("x was forgotten at once")
	}
	if _, ok := a.get("x", 19); !ok {
		t.Error("x was used 10 ago")
	}
	if _, ok := a.get("x", 60); ok {
		t.Error("x was not used for 41")
	}
	for i, k := range []string{"a", "b", "c"} {
		a.put(k, i, 61)
	}
	if _, ok := a.get("a", 62); !ok {
		t.Error("a full generation forgets the older one, not itself")
	}
	a.deleteFunc(func(k string, _ int) bool { return k == "a" })
	if _, ok := a.get("a", 62); ok {
		t.Error("a was deleted")
	}
}

// Bounded always; what was used within a span, among fewer keys than a
// generation holds, is known.
func TestAgingProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit, span = 4, 10
		a := newAging[int, int](limit, span)
		used := make(map[int]int64)
		var now int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, 7).Draw(t, "passed")
			k := rapid.IntRange(0, limit-1).Draw(t, "key")
			if rapid.Bool().Draw(t, "put") {
				a.put(k, k, now)
				used[k] = now
			} else if v, ok := a.get(k, now); ok {
				if v != k {
					t.Fatalf("%d holds %d", k, v)
				}
				used[k] = now
			} else if last, ever := used[k]; ever && now-last < span {
				t.Fatalf("%d was used at %d and is gone at %d", k, last, now)
			}
			if len(a.young) > limit || len(a.old) > limit {
				t.Fatalf("%d and %d entries", len(a.young), len(a.old))
			}
		}
	})
}
