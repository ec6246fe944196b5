package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
)

// question is what a successor asks a process that drains.
type question struct {
	ID   uint64          `json:"id"`
	What string          `json:"what"`
	Body json.RawMessage `json:"body,omitempty"`
}

// answer is a part of the answer.
type answer struct {
	ID    uint64          `json:"id"`
	Body  json.RawMessage `json:"body,omitempty"`
	Last  bool            `json:"last,omitempty"`
	Error string          `json:"error,omitempty"`
}

// questions are those that wait for their answers. The zero value has none.
type questions struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*waiting
}

// waiting is somebody who has asked.
type waiting struct {
	take func(json.RawMessage) error
	done chan error // 1
}

// ask asks over a channel that somebody reads, who calls answered.
func (q *questions) ask(ctx context.Context, c *channel, what string, body any, take func(json.RawMessage) error) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w := &waiting{take: take, done: make(chan error, 1)}
	id := q.begin(w)
	defer q.forget(id)
	if err := c.send(kindAsk, question{ID: id, What: what, Body: raw}); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin numbers a question. The answer to one that a process of before has asked
// may come to its successor, which must not take it for its own: the numbers of
// each begin with its process id.
func (q *questions) begin(w *waiting) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == nil {
		q.waiting, q.last = make(map[uint64]*waiting), uint64(os.Getpid())<<32
	}
	q.last++
	q.waiting[q.last] = w
	return q.last
}

// forget has the rest of an answer come to nothing.
func (q *questions) forget(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, id)
}

// fail ends all that wait: nobody reads any more.
func (q *questions) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, w := range q.waiting {
		delete(q.waiting, id)
		w.done <- err
	}
}

// answered gives a part of an answer to whoever waits for it.
func (q *questions) answered(body json.RawMessage) error {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.waiting[a.ID]
	if w == nil {
		return nil // nobody waits any more
	}
	var err error
	switch {
	case a.Error != "":
		err = errors.New(a.Error)
	case a.Body != nil:
		err = w.take(a.Body)
	}
	if err != nil || a.Last {
		delete(q.waiting, a.ID)
		w.done <- err
	}
	return nil
}

// answer answers a question. The error is the channel's.
func (c *channel) answer(body json.RawMessage, how func(what string, body json.RawMessage, say func(part any) error) error) error {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		return err
	}
	var broken error
	err := how(q.What, q.Body, func(part any) error {
		raw, err := json.Marshal(part)
		if err != nil {
			return err
		}
		broken = c.send(kindAnswer, answer{ID: q.ID, Body: raw})
		return broken
	})
	if broken != nil {
		return broken
	}
	last := answer{ID: q.ID, Last: true}
	if err != nil {
		last.Error = err.Error()
	}
	return c.send(kindAnswer, last)
}
