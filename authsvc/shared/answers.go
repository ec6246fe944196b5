package shared

import (
	"context"
	"errors"

	"github.com/redis/rueidis"
)

// errAnswer is an answer that none of the scripts gives.
var errAnswer = errors.New("the shared state answers something else than its scripts say")

// entered is the answer of enterScript.
type entered struct {
	beaten
	answers string
	granted int
	slack   bool
}

// enterArgs are the arguments of enterScript before the claims.
const enterArgs = 9

// beaten is the answer of beatScript.
type beaten struct {
	others int // connections elsewhere
	strict bool
	ended  int // that are too many, of those that may be ended
}

func (s *Store) entered(ctx context.Context, call scriptCall) (got entered, err error) {
	err = s.promptly(ctx, "enter", func(ctx context.Context, c rueidis.Client) (err error) {
		got, err = enteredOf(enterScript.run(ctx, c, call.keys, call.args).ToArray())
		if err == nil && len(got.answers) != len(call.args)-enterArgs {
			err = errAnswer
		}
		return about(call.keys[0], err)
	})
	s.strange.found(ctx, s, err)
	return got, err
}

func enteredOf(list []rueidis.RedisMessage, err error) (got entered, _ error) {
	if err != nil {
		return got, err
	}
	if len(list) != 5 {
		return got, errAnswer
	}
	answers, err := list[0].ToString()
	n, err2 := numbers(list[1:])
	if err = errors.Join(err, err2); err != nil {
		return got, err
	}
	return entered{beaten: beaten{others: int(n[1]), strict: n[2] > 0}, answers: answers, granted: int(n[0]), slack: n[3] > 0}, nil
}

func (s *Store) told(ctx context.Context, call scriptCall) (got beaten, err error) {
	err = s.promptly(ctx, "beat", func(ctx context.Context, c rueidis.Client) (err error) {
		got, err = beatenOf(beatScript.run(ctx, c, call.keys, call.args).ToArray())
		return about(call.keys[0], err)
	})
	s.strange.found(ctx, s, err)
	return got, err
}

// beatenAll are the answers to many beats. Where a key is strange there is none.
func (s *Store) beatenAll(ctx context.Context, calls []scriptCall) (all []*beaten, err error) {
	all = make([]*beaten, len(calls))
	err = s.call(ctx, "beat", func(ctx context.Context, c rueidis.Client) error {
		for i, r := range beatScript.runAll(ctx, c, calls) {
			got, err := beatenOf(r.ToArray())
			switch {
			case err == nil:
				all[i] = &got
			case isStrange(err):
				s.strange.found(ctx, s, about(calls[i].keys[0], err))
			default:
				return err
			}
		}
		return nil
	})
	return all, err
}

func beatenOf(list []rueidis.RedisMessage, err error) (beaten, error) {
	if err != nil {
		return beaten{}, err
	}
	n, err := numbers(list)
	if err != nil || len(n) != 3 {
		return beaten{}, errors.Join(err, errAnswer)
	}
	return beaten{others: int(n[0]), strict: n[1] > 0, ended: int(n[2])}, nil
}

// numbers are the elements of an answer, which the store gives as integers, or
// as strings where a number may be large.
func numbers(list []rueidis.RedisMessage) ([]int64, error) {
	out := make([]int64, len(list))
	for i := range list {
		n, err := list[i].AsInt64()
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}
