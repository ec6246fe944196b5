package shared

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/authsvc"
	"cleversocks/conn/netaddr"
)

// later are calls that nobody waits for: one after the other for a source, so
// that a ban and its end arrive in their order.
type later struct {
	seed   maphash.Seed
	queues [4]queue
}

// queue is what one goroutine makes the calls of.
type queue struct {
	jobs   chan job
	again  chan struct{} // 1: the store answers again
	failed []job         // are made then, in their order, and before what came later for their source
}

type job struct {
	source netip.Addr
	what   string
	keep   bool // it is to be done even if that is after an outage
	run    func(ctx context.Context, c rueidis.Client) error
}

// queueLength bounds what waits: a flood of wrong passwords is counted here in
// any case.
const queueLength = 1024

func (l *later) start() {
	l.seed = maphash.MakeSeed()
	for i := range l.queues {
		l.queues[i] = queue{jobs: make(chan job, queueLength), again: make(chan struct{}, 1)}
	}
}

// do has a call made soon. It does not wait.
func (s *Store) do(j job) {
	select {
	case s.later.queues[maphash.Comparable(s.later.seed, j.source)%uint64(len(s.later.queues))].jobs <- j:
	default:
		s.metrics.Dropped.Inc()
	}
}

// doFailed has those calls made that an outage has prevented.
func (s *Store) doFailed() {
	for i := range s.later.queues {
		select {
		case s.later.queues[i].again <- struct{}{}:
		default:
		}
	}
}

// work makes the calls of a queue until ctx ends.
func (s *Store) work(ctx context.Context, q *queue) error {
	for {
		select {
		case <-q.again:
			list := q.failed
			q.failed = nil
			for _, j := range list {
				s.workOn(ctx, q, j)
			}
		case j := <-q.jobs:
			s.workOn(ctx, q, j)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Store) workOn(ctx context.Context, q *queue, j job) {
	if j.keep && slices.ContainsFunc(q.failed, func(f job) bool { return f.source == j.source }) {
		s.keep(q, j)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	err := s.call(ctx, j.what, j.run)
	switch {
	case err == nil:
	case isStrange(err):
		s.strange.found(ctx, s, about(s.keys.source(j.source, "*"), err))
		s.metrics.Dropped.Inc() // it would be no better the next time
	default:
		s.keep(q, j)
	}
}

// keep has a call that failed, or one behind it, made later.
func (s *Store) keep(q *queue, j job) {
	if !j.keep || len(q.failed) >= queueLength {
		s.metrics.Dropped.Inc()
		return
	}
	q.failed = append(q.failed, j)
}

// banData is a ban in the list of all, and in events: times are the store's.
type banData struct {
	Since   int64  `json:"since"`
	Until   int64  `json:"until"`
	Level   int    `json:"level"`
	Replica string `json:"replica"` // its name
}

// Failed counts a failed log-in for all replicas.
func (s *Store) Failed(source netip.Addr, terms authsvc.ThrottleOptions, ban authsvc.Ban) {
	least := 0
	if !ban.Until.IsZero() {
		least = ban.Level
	}
	s.fail(source, terms, least, 0)
}

// Imposed bans for all replicas whom an operator has banned on this one.
func (s *Store) Imposed(b authsvc.Ban, terms authsvc.ThrottleOptions) {
	s.fail(b.Source.Addr(), terms, b.Level, b.Duration())
}

func (s *Store) fail(source netip.Addr, terms authsvc.ThrottleOptions, least int, wanted time.Duration) {
	source = netaddr.SourceKey(source)
	keys := []string{s.keys.fail(source), s.keys.ban(source)}
	args := []string{itoa(terms.Max), ms(terms.Window), ms(terms.Ban), ms(terms.BanMax), itoa(least), ms(wanted)}
	s.do(job{source, "fail", least > 0, func(ctx context.Context, c rueidis.Client) error {
		list, err := failScript.run(ctx, c, keys, args).ToArray()
		if err != nil {
			return err
		}
		n, err := numbers(list)
		if err != nil || len(n) != 4 {
			return errors.Join(err, errAnswer)
		}
		if n[0] <= 0 {
			return nil
		}
		now := s.storeTime(time.Now())
		data := &banData{Since: now - n[3], Until: now + n[0], Level: int(n[1]), Replica: s.options.Replica}
		if n[2] == 0 {
			s.banned(source, data) // by another, before we heard of it
			return nil
		}
		s.banned(source, &banData{Since: data.Since, Until: data.Until, Level: data.Level})
		s.listBan(source, data)
		return nil
	}})
}

// listBan puts a ban on the list, and tells the others. It is a call of its own,
// which is repeated if it fails: the ban itself is in the store already.
func (s *Store) listBan(source netip.Addr, data *banData) {
	s.publish(event{Kind: eventBan, Source: source, Ban: data})
	text, err := json.Marshal(data)
	if err != nil {
		return // its types are ours: it cannot be
	}
	args := []string{source.String(), itoa(data.Until), string(text)}
	s.do(job{source, "fail", true, func(ctx context.Context, c rueidis.Client) error {
		return listScript.run(ctx, c, []string{s.keys.bans(), s.keys.bansData()}, args).Error()
	}})
}

// banned takes a ban as the fleet has it.
func (s *Store) banned(source netip.Addr, data *banData) {
	if s.options.Throttle == nil || data == nil || !source.IsValid() {
		return
	}
	s.options.Throttle.Learn(authsvc.Ban{
		Source: netaddr.SourcePrefix(netaddr.SourceKey(source)), Since: s.ourTime(data.Since), Until: s.ourTime(data.Until),
		Level: data.Level, Replica: data.Replica,
	})
}

// liftedLife is how long the store remembers that a ban was lifted which it did not
// know: a replica that is away may.
const liftedLife = 24 * time.Hour

// Lifted ends a ban for all replicas.
func (s *Store) Lifted(source netip.Addr) {
	source = netaddr.SourceKey(source)
	s.do(job{source, "lift", true, func(ctx context.Context, c rueidis.Client) error {
		if err := liftScript.run(ctx, c, []string{s.keys.fail(source), s.keys.ban(source)}, []string{ms(liftedLife)}).Error(); err != nil {
			return err
		}
		err := listScript.run(ctx, c, []string{s.keys.bans(), s.keys.bansData()}, []string{source.String(), "0", ""}).Error()
		if err == nil { // not before: who reads the list between the two would never hear of it
			s.publish(event{Kind: eventUnban, Source: source})
		}
		return err
	}})
}

// maxBans bounds the list that is read: what a Throttle remembers. The bans themselves
// are read in pieces, each in its time, however slow the way is.
const (
	maxBans   = 65_536
	bansBatch = 1000
)

// readBans takes all bans of the store.
func (s *Store) readBans(ctx context.Context, c rueidis.Client) error {
	if s.options.Throttle == nil {
		return nil
	}
	now := strconv.FormatInt(s.storeTime(time.Now()), 10)
	list, err := func() ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
		defer cancel()
		return c.Do(ctx, c.B().Zrange().Key(s.keys.bans()).Min("("+now).Max("+inf").Byscore().Limit(0, maxBans).Build()).AsStrSlice()
	}()
	if err != nil {
		return err
	}
	inBatches(list, bansBatch, func(batch []string) bool {
		err = s.readSomeBans(ctx, c, batch)
		return err == nil
	})
	return err
}

func (s *Store) readSomeBans(ctx context.Context, c rueidis.Client, list []string) error {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	data, err := c.Do(ctx, c.B().Hmget().Key(s.keys.bansData()).Field(list...).Build()).AsStrSlice()
	if err != nil {
		return err
	}
	for i, text := range data[:min(len(data), len(list))] {
		var b banData
		source, err := netip.ParseAddr(list[i])
		if err == nil && json.Unmarshal([]byte(text), &b) == nil {
			s.ownBan(&b)
			s.banned(source, &b)
		}
	}
	return nil
}

// ownBan leaves the name out of a ban that was made here.
func (s *Store) ownBan(b *banData) {
	if b != nil && b.Replica == s.options.Replica {
		b.Replica = ""
	}
}

// revokedMark stands in the place of an entry for as long as a replica that was away
// may have it saved.
const revokedMark = "-"

// Ask is what the store knows of an address that this replica does not know.
func (s *Store) Ask(ctx context.Context, addr netip.Addr) []byte {
	if s.missing.has(addr, s.now()) {
		return nil
	}
	var text string
	found := make(chan string, 1) // the call may outlive us
	err := s.bounded(ctx, "once", func(ctx context.Context, c rueidis.Client) error {
		text, err := c.Do(ctx, c.B().Get().Key(s.keys.once(addr)).Build()).ToString()
		if rueidis.IsRedisNil(err) {
			err = nil
		}
		if text == revokedMark {
			text = ""
		}
		found <- text
		return about(s.keys.once(addr), err)
	})
	if err != nil {
		s.strange.found(ctx, s, err)
		return nil
	}
	if text = <-found; text == "" {
		s.missing.add(addr, s.now()+missingLife)
	}
	if text == "" || s.missing.has(addr, s.now()) { // or it was revoked meanwhile
		return nil
	}
	return []byte(text)
}

func (s *Store) learnOnce(addr netip.Addr, entry []byte) {
	s.missing.remove(addr)
	if s.options.Once != nil {
		_ = s.options.Once.Learn(entry)
	}
}

// Bounds of what is remembered of addresses that nobody knows. One that was revoked
// is not asked for until the store has surely forgotten it.
const (
	maxMissing  = 4096
	missingLife = time.Second
	revokedLife = 5 * time.Second
)

func (m *missing) has(addr netip.Addr, now time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now < m.until[addr]
}

func (m *missing) add(addr netip.Addr, until time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil || len(m.until) >= maxMissing {
		m.until = make(map[netip.Addr]time.Duration)
	}
	m.until[addr] = max(m.until[addr], until)
}

func (m *missing) remove(addr netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.until, addr)
}
