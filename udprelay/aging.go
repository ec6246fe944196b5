package udprelay

// aging is a bounded map whose entries go when they have not been used for a
// while: two generations, of which the older is dropped when the younger is
// full or span has passed. A used entry moves to the younger. All costs are
// constant, and once both maps have grown nothing allocates. The owner locks.
type aging[K comparable, V any] struct {
	limit int            // cost of one generation
	span  int64          // nanoseconds; an unused entry lives for one to two of them
	cost  func(K, V) int // of an entry; nil: each costs 1

	young, old map[K]V
	spent      int // by the young
	turned     int64
}

func newAging[K comparable, V any](limit int, span int64) aging[K, V] {
	return aging[K, V]{limit: limit, span: span, young: make(map[K]V), old: make(map[K]V)}
}

// get looks k up and renews it.
func (a *aging[K, V]) get(k K, now int64) (V, bool) {
	a.age(now)
	if v, ok := a.young[k]; ok {
		return v, true
	}
	v, ok := a.old[k]
	if ok {
		a.put(k, v, now)
	}
	return v, ok
}

// put stores or renews k.
func (a *aging[K, V]) put(k K, v V, now int64) {
	a.age(now)
	if _, ok := a.young[k]; !ok {
		cost := 1
		if a.cost != nil {
			cost = a.cost(k, v)
		}
		if a.spent > 0 && a.spent+cost > a.limit {
			a.next(now)
		}
		a.spent += cost
	}
	a.young[k] = v
}

// age drops what was not used for long enough.
func (a *aging[K, V]) age(now int64) {
	if now-a.turned < a.span {
		return
	}
	late := now-a.turned >= 2*a.span
	a.next(now)
	if late {
		clear(a.old)
	}
}

// next begins a generation.
func (a *aging[K, V]) next(now int64) {
	a.young, a.old = a.old, a.young
	clear(a.young)
	a.spent = 0
	a.turned = now
}

// clear forgets everything.
func (a *aging[K, V]) clear() {
	clear(a.young)
	clear(a.old)
	a.spent = 0
}

// delete forgets one entry.
func (a *aging[K, V]) delete(k K) {
	delete(a.young, k)
	delete(a.old, k)
}

// deleteFunc forgets the entries for which f is true.
func (a *aging[K, V]) deleteFunc(f func(K, V) bool) {
	for _, m := range []map[K]V{a.young, a.old} {
		for k, v := range m {
			if f(k, v) {
				delete(m, k)
			}
		}
	}
}
