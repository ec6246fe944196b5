package authsvc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/conn/netaddr"
	"cleversocks/metrics"
)

// slowUsers lets in whoever has the password "right", after a second, and
// counts what was looked up.
type slowUsers struct{ looked atomic.Int64 }

func (*slowUsers) Method() Method                                    { return MethodPassword }
func (*slowUsers) Accepts(k Kind) bool                               { return k == KindPassword }
func (*slowUsers) Holds(id Identity, _ netip.Addr) (Identity, error) { return id, nil }
func (u *slowUsers) Authenticate(ctx context.Context, a *Attempt) (Grant, error) {
	u.looked.Add(1)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return Grant{}, ctx.Err()
	}
	if p := a.Credentials.(Password); string(p.Password) != "right" {
		return Grant{}, ErrCredentials
	}
	return Grant{Identity: Identity{User: a.Credentials.Name(), Method: MethodPassword}}, nil
}

// guessing is an Admission whose clients guess, with its log.
func guessing(way Authenticator, th *Throttle) (*Admission, *bytes.Buffer) {
	log := &bytes.Buffer{}
	return NewAdmission(AdmissionOptions{
		Required: true, Authenticators: []Authenticator{way}, Throttle: th,
		Log: slog.New(slog.NewTextHandler(log, nil)), Outcomes: metrics.New().Conn.Auth,
	}), log
}

func password(user, word string) *Attempt {
	return &Attempt{Credentials: Password{User: []byte(user), Password: []byte(word)}, Source: home}
}

func reasonOf(err error) Reason {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return ""
}

// 1,500 connections from one source guessed at the same moment. Those past 64
// waiters were told "busy", which counted nowhere, and one that had the right
// password of somebody who was logged in elsewhere was let in at once. Now a
// check takes of what the source has left before it looks anything up.
func TestGuessesAtOnceAreGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		way := &slowUsers{}
		a, log := guessing(way, th)
		var let atomic.Int64
		var wg sync.WaitGroup
		for i := range 1500 {
			word := fmt.Sprint(i)
			if i == 1400 {
				word = "right"
			}
			wg.Go(func() {
				if _, err := a.Verify(t.Context(), password("alice", word)); err == nil {
					let.Add(1)
				}
			})
		}
		wg.Wait()
		if n := way.looked.Load(); n > 5 || let.Load() != 0 {
			t.Errorf("%d passwords were looked up, %d let in: want 5 and 0", n, let.Load())
		}
		if !th.Banned(home) {
			t.Error("not banned")
		}
		if n := strings.Count(log.String(), `msg="authentication failed"`); n < 5 {
			t.Errorf("%d lines for fail2ban", n)
		}
	})
}

// A browser opens thirty connections at once with the right password, and a
// whole office logs in at nine: nobody is refused.
func TestManyRightOnesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		a, _ := guessing(&slowUsers{}, th)
		var wg sync.WaitGroup
		for i := range 30 {
			for range 10 {
				wg.Go(func() {
					if _, err := a.Verify(t.Context(), password(fmt.Sprint("user", i), "right")); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if th.Banned(home) {
			t.Error("banned")
		}
	})
}

// A device with an old password tries it every second, from the address of a
// whole office: that is one failure a minute, in the count of bans and in the
// log that fail2ban reads. Six different guesses are six.
func TestSameWrongPasswordIsOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		a, log := guessing(&slowUsers{}, th)
		for began := time.Now(); time.Since(began) < 3*time.Minute; pass(time.Second) {
			if _, err := a.Verify(t.Context(), password("tv", "old")); err == nil {
				t.Fatal("let in")
			}
		}
		if n := strings.Count(log.String(), `msg="authentication failed"`); n != 3 || th.Banned(home) {
			t.Errorf("%d lines in three minutes, banned %v", n, th.Banned(home))
		}
		if _, err := a.Verify(t.Context(), password("colleague", "right")); err != nil {
			t.Error(err)
		}
		for i := range 6 {
			a.Verify(t.Context(), password("tv", fmt.Sprint(i)))
		}
		if !th.Banned(home) {
			t.Error("six guesses do not ban")
		}
	})
}

// A reload may make a wrong password right: it is looked up again.
func TestRepeatedIsForgottenByAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		before, _ := guessing(voucher{method: MethodPassword, kind: KindPassword, err: ErrCredentials}, th)
		for _, want := range []Reason{ReasonCredentials, ReasonRepeated} {
			if _, err := before.Verify(t.Context(), password("alice", "new")); reasonOf(err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		after, _ := guessing(voucher{method: MethodPassword, kind: KindPassword}, th)
		if _, err := after.Verify(t.Context(), password("alice", "new")); err != nil {
			t.Error(err)
		}
	})
}

// A client that leaves gives its try back, and the next in line with the same
// password takes it; so does a panic.
func TestTriesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := fiveAMinute
		o.Max = 1
		th, _ := newThrottle(o, "")
		a, _ := guessing(&slowUsers{}, th)
		gone, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, ctx := range []context.Context{gone, t.Context(), gone, t.Context()} {
			wg.Go(func() {
				_, err := a.Verify(ctx, password("alice", "right"))
				if (err == nil) != (ctx != gone) {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		leave()
		wg.Wait()
		b, _ := guessing(panicking{}, th)
		func() {
			defer func() { _ = recover() }()
			b.Verify(t.Context(), password("alice", "x"))
			t.Error("no panic")
		}()
		if _, err := a.Verify(t.Context(), password("alice", "right")); err != nil {
			t.Error(err)
		}
		for i := range th.shards {
			for _, o := range th.shards[i].sources {
				if o.busy() {
					t.Errorf("left behind: %+v", o)
				}
			}
		}
	})
}

type panicking struct{ *slowUsers }

func (panicking) Method() Method                                        { return MethodPassword }
func (panicking) Accepts(Kind) bool                                     { return true }
func (panicking) Authenticate(context.Context, *Attempt) (Grant, error) { panic("a defect") }

// 1,100 sources guess at once, more than the queue holds. All of them are
// banned in the end, and one who knows the password is let in meanwhile.
func TestGuessesFromManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		u := newUsers(t, UsersOptions{
			Users: []UserEntry{{Account: Account{Name: "alice"}, PasswordHash: cheap("right", 8)}},
			Queue: NewQueue(QueueOptions{Concurrency: 1}),
		})
		a, log := guessing(u, th)
		held, hold := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { _ = u.queue.Do(t.Context(), v4(5000), nil, 0, func() { close(held); <-hold }) })
		<-held
		const sources = 1100
		for round := range 6 {
			for i := range sources {
				wg.Go(func() {
					try := password("alice", fmt.Sprint("wrong", round))
					try.Source = v4(i)
					a.Verify(t.Context(), try)
				})
			}
		}
		synctest.Wait()
		honest := make(chan error, 1)
		wg.Go(func() {
			_, err := a.Verify(t.Context(), password("alice", "right"))
			honest <- err
		})
		synctest.Wait()
		close(hold)
		if err := <-honest; err != nil {
			t.Errorf("the one with the password: %v", err)
		}
		wg.Wait()
		for i := range sources {
			if !th.Banned(v4(i)) {
				t.Fatalf("%s is not banned", v4(i))
			}
		}
		if n := strings.Count(log.String(), `msg="authentication failed"`); n < 5*sources {
			t.Errorf("%d lines for fail2ban", n)
		}
	})
}

// A local user at a unix socket has no address, and guessed passwords as fast as
// they could be hashed. The user id that the kernel tells is a source as any other:
// it is banned, another one is not, and other replicas, where the number is
// somebody else, do not hear of it.
func TestLocalUsersAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, _ := newThrottle(fiveAMinute, "")
		told := &toldBans{}
		th.Join(told)
		way := &slowUsers{}
		a, log := guessing(way, th)
		as := func(uid uint32, word string) error {
			try := password("alice", word)
			try.Source, try.Local = netip.Addr{}, netaddr.LocalUser(uid)
			_, err := a.Verify(t.Context(), try)
			return err
		}
		for i := range 20 {
			if err := as(1000, fmt.Sprint(i)); err == nil {
				t.Error("a wrong password")
			}
		}
		if n := way.looked.Load(); n != 5 || !th.Banned(netaddr.LocalUser(1000)) {
			t.Errorf("%d passwords were looked up, banned: %v", n, th.Banned(netaddr.LocalUser(1000)))
		}
		if reason := reasonOf(as(1000, "right")); reason != ReasonBanned {
			t.Errorf("the right one while banned: %q", reason)
		}
		if err := as(1001, "right"); err != nil {
			t.Errorf("somebody else: %v", err)
		}
		if !strings.Contains(log.String(), "client=\"unix:uid=1000\"") || !strings.Contains(log.String(), "source=\"unix:uid=1000\"") {
			t.Errorf("the log does not name the user: %s", log)
		}
		if len(told.sources) > 0 {
			t.Errorf("other replicas heard of %v", told.sources)
		}
		if !th.Lift(netaddr.LocalUser(1000)) || as(1000, "right") != nil {
			t.Error("not lifted")
		}
	})
}

// toldBans is a fleet that remembers what it is told.
type toldBans struct{ sources []netip.Addr }

func (f *toldBans) Failed(source netip.Addr, _ ThrottleOptions, _ Ban) {
	f.sources = append(f.sources, source)
}

func (f *toldBans) Imposed(b Ban, _ ThrottleOptions) { f.sources = append(f.sources, b.Source.Addr()) }
func (f *toldBans) Lifted(source netip.Addr)         { f.sources = append(f.sources, source) }
