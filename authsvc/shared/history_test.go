package shared

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What the replicas did with one user's cap, judged by porcupine: the whole
// history must be one that a single counter could have had, at which each
// connection is asked for and given back, and which frees what a dead replica
// held by the end of its lease.

const (
	historyReplicas = 3
	historyCap      = 7
)

type seatOp struct {
	kind    string // enter, leave, dies, expires
	replica int
}

// seatState is the connections of each replica, and whether it is dead and not
// known to be.
type seatState struct {
	held [historyReplicas]int
	dead [historyReplicas]bool
}

func (s seatState) sum() (n int) {
	for _, h := range s.held {
		n += h
	}
	return n
}

// reserved is sum, with the floor that a dead replica would be entitled to: the
// others cannot ask it to do without.
func (s seatState) reserved() (n int) {
	for i, h := range s.held {
		if s.dead[i] {
			h = max(h, historyCap/2/historyReplicas)
		}
		n += h
	}
	return n
}

var seatModel = porcupine.Model{
	Init: func() any { return seatState{} },
	Step: func(state, input, output any) (bool, any) {
		s, op := state.(seatState), input.(seatOp)
		switch op.kind {
		case "enter":
			if output.(bool) {
				legal := s.sum() < historyCap
				s.held[op.replica]++
				return legal, s
			}
			return s.reserved() >= historyCap, s
		case "leave":
			s.held[op.replica]--
		case "dies":
			s.dead[op.replica] = true
		case "expires":
			s.held[op.replica], s.dead[op.replica] = 0, false
		}
		return true, s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, " ", output) },
	DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
}

type history struct {
	mu    sync.Mutex
	begin time.Time
	ops   []porcupine.Operation
}

// do notes an operation; f returns its output.
func (h *history) do(client int, op seatOp, f func() any) any {
	call := time.Since(h.begin).Nanoseconds()
	out := f()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: call, Output: out, Return: time.Since(h.begin).Nanoseconds()})
	return out
}

func TestHistoriesOfSeats(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := &history{begin: time.Now()}
			runHistory(t, h, seed)
			result, info := porcupine.CheckOperationsVerbose(seatModel, h.ops, time.Minute)
			if result != porcupine.Ok {
				file := t.TempDir() + "/history.html"
				_ = porcupine.VisualizePath(seatModel, info, file)
				t.Errorf("the history is none of a counter's: %s", result)
				for _, op := range h.ops {
					t.Logf("%8d %8d  %v %v", op.Call/1000, op.Return/1000, op.Input, op.Output)
				}
			}
		})
	}
}

// runHistory has clients come and go at all replicas, and one replica die in the
// middle of it, in every other history.
func runHistory(t *testing.T, h *history, seed uint64) {
	t.Helper()
	_, url := fake(t)
	all := joinAll(t, url, historyReplicas)
	dying := make(chan struct{})
	var wg, dead sync.WaitGroup
	for client := range 6 {
		i := client % historyReplicas
		r, dies := all[i], i == 0 && seed%2 == 1
		random := rand.New(rand.NewPCG(seed, uint64(client)))
		work := func() {
			held := 0
			for range 25 {
				if dies {
					select {
					case <-dying:
						return
					default:
					}
				}
				if held > 0 && random.IntN(5) < 2 {
					held--
					h.do(client, seatOp{"leave", i}, func() any { r.Leave("alice", home); r.quiet(t, "alice"); return nil })
				} else if h.do(client, seatOp{"enter", i}, func() any { return r.enter("alice", historyCap) }).(bool) {
					held++
				}
				after(t.Context(), time.Duration(random.IntN(3))*time.Millisecond)
			}
		}
		if dies {
			dead.Go(work)
		} else {
			wg.Go(work)
		}
	}
	if seed%2 == 1 {
		after(t.Context(), 30*time.Millisecond)
		close(dying)
		dead.Wait() // none of its own calls is under way
		h.do(100, seatOp{"dies", 0}, func() any { all[0].die(); return nil })
		wg.Go(func() {
			h.do(101, seatOp{"expires", 0}, func() any {
				eventually(t, "it is off the list", func() bool { return all[1].fleet.count() == 2 && all[2].fleet.count() == 2 })
				after(t.Context(), quick.lease)
				return nil
			})
			// Now all of the cap is the others'.
			for range historyCap + 1 {
				h.do(101, seatOp{"enter", 1}, func() any { return all[1].enter("alice", historyCap) })
			}
		})
	}
	wg.Wait()
}
