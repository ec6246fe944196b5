package authsvc

import (
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/metrics"
)

// A replica of two spends an eighth of what is left, and asks for the fleet's word
// before it goes on; of a fleet that does not answer it asks no more for long. Each of
// two spent all that was left until the half second was over after which they told.
func TestRoomOfAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQuotas(StateOptions{Metrics: &metrics.New().Auth})
		q.Among(2)
		const quota = 8 << 20
		u := q.Of(&Account{Name: "bob", QuotaBytes: quota, QuotaPeriod: time.Hour})
		q.Shares(false, 2)
		spend := func() (all int64) {
			t.Helper()
			for {
				n, left := u.Reserve(1 << 20)
				if n == 0 {
					if !left {
						t.Error("it is over")
					}
					return all
				}
				u.Settle(n, n)
				all += n
			}
		}
		word := func(elsewhere int64) {
			t.Helper()
			select {
			case <-q.Wanted():
			default:
				t.Fatal("the fleet's word is not asked for")
			}
			shares := q.Shares(false, 2)
			if len(shares) != 1 {
				t.Fatalf("%v", shares)
			}
			q.Learn(shares[0], shares[0].Begin, elsewhere, shares[0].Own, true)
		}
		if n := spend(); n != leastRoom {
			t.Errorf("%d bytes before any word", n)
		}
		word(4 << 20)
		if n, want := spend(), int64(4<<20-leastRoom)/8; n != want {
			t.Errorf("%d bytes, an eighth of what is left is %d", n, want)
		}
		if n := spend(); n != 0 {
			t.Errorf("%d bytes more", n)
		}
		word(4 << 20)
		time.Sleep(roomLife + time.Second) //nolint:forbidigo // synctest's clock
		if n := spend(); n != leastRoom {
			t.Errorf("%d bytes long after a word", n)
		}
		time.Sleep(roomPatience + time.Millisecond) //nolint:forbidigo // synctest's clock
		if n, left := u.Reserve(1 << 20); n != 1<<20 || !left {
			t.Errorf("%d bytes where the fleet does not answer", n)
		} else {
			u.Settle(n, 0)
		}
		q.Among(1)
		if n, _ := u.Reserve(quota); n < 3<<20 {
			t.Errorf("%d bytes alone", n)
		}
	})
}
