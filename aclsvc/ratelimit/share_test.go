package ratelimit

import (
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/authsvc"
)

// Processes that tell each other what they want keep a user's bandwidth
// together: two that take all they can share it, and one that takes little leaves
// the rest to the other. (With a bandwidth for each, an idle tunnel of before an
// upgrade halved it; by what was moved alone, the newer process starved the
// older.)
func TestShare(t *testing.T) {
	const rate, length = 1 << 20, 5 * time.Second
	for _, tt := range []struct {
		name        string
		wants       [2]int // bytes every 5 ms
		least, most [2]float64
	}{
		{"both all", [2]int{64 << 10, 64 << 10}, [2]float64{0.4, 0.4}, [2]float64{0.6, 0.6}},
		{"one little", [2]int{64 << 10, 256}, [2]float64{0.85, 0.04}, [2]float64{1, 0.06}},
		{"one nothing", [2]int{0, 64 << 10}, [2]float64{0, 0.95}, [2]float64{0, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tables [2]*Users
				var users [2]*User
				for i := range tables {
					tables[i] = NewUsers()
					users[i], _ = tables[i].Enter(t.Context(), &authsvc.Account{Name: "alice", Down: rate}, home, nil)
				}
				var moved [2]int
				var free [2]time.Time // when each may book again
				move := func(length time.Duration) {
					begun, told := time.Now(), time.Now()
					for ; time.Since(begun) < length; pass(5 * time.Millisecond) {
						for i, u := range users {
							if tt.wants[i] > 0 && !free[i].After(time.Now()) {
								n, wait := u.Down.Reserve(tt.wants[i])
								moved[i] += n
								free[i] = time.Now().Add(wait)
							}
						}
						if time.Since(told) >= 50*time.Millisecond {
							told = time.Now()
							demands := [2][]Demand{tables[0].Demands(), tables[1].Demands()}
							tables[0].Share(demands[1])
							tables[1].Share(demands[0])
						}
					}
				}
				move(3 * time.Second) // each has a burst first
				moved = [2]int{}
				move(length)
				for i := range moved {
					if share := float64(moved[i]) / (rate * length.Seconds()); share < tt.least[i] || share > tt.most[i] {
						t.Errorf("process %d has %.2f of the bandwidth, of %d and %d bytes", i, share, moved[0], moved[1])
					}
				}
				if sum := float64(moved[0]+moved[1]) / (rate * length.Seconds()); sum > 1.02 {
					t.Errorf("%.2f of the bandwidth", sum)
				}
			})
		})
	}
}
