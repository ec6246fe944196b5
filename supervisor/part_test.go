package supervisor

import (
	"context"
	"errors"
	"slices"
	"testing"

	"cleversocks/conn/task"
)

// noted is a part that writes down what happens to it.
type noted struct {
	name  string
	fails error
	panic bool
	said  *[]string
}

func (n noted) say(what string) { *n.said = append(*n.said, what+" "+n.name) }

func (n noted) Prepare(context.Context, *draft) (change, error) {
	n.say("prepare")
	if n.panic {
		panic("a bug in " + n.name)
	}
	if n.fails != nil {
		return nil, n.fails
	}
	return n, nil
}

func (n noted) Commit(context.Context)   { n.say("commit") }
func (n noted) Rollback(context.Context) { n.say("rollback") }

// TestInstallOrder: parts were committed in another order than that in which
// they had been prepared, as each reload path wrote its own.
func TestInstallOrder(t *testing.T) {
	full := errors.New("no room")
	for _, tt := range []struct {
		name   string
		second noted
		want   []string
		err    error
	}{
		{
			name: "all", second: noted{name: "b"},
			want: []string{"prepare a", "prepare b", "prepare c", "commit a", "commit b", "commit c"},
		},
		{
			name: "one cannot", second: noted{name: "b", fails: full}, err: full,
			want: []string{"prepare a", "prepare b", "rollback a"},
		},
		{ // it ended the reloader, and left sockets open that nobody knew
			name: "one panics", second: noted{name: "b", panic: true}, err: new(task.PanicError),
			want: []string{"prepare a", "prepare b", "rollback a"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said []string
			tt.second.said = &said
			nothing := partFunc(func(context.Context, *draft) (change, error) { return nil, nil })
			err := install(t.Context(), []part{noted{name: "a", said: &said}, nothing, tt.second, noted{name: "c", said: &said}}, &draft{}, nil)
			if _, panicked := errors.AsType[*task.PanicError](err); !errors.Is(err, tt.err) && (!tt.second.panic || !panicked) {
				t.Errorf("got %v", err)
			}
			if !slices.Equal(said, tt.want) {
				t.Errorf("got %q", said)
			}
		})
	}
}

// TestInstallAtTheEnd: a part that was prepared when the daemon was told to
// stop is given back like those before it.
func TestInstallAtTheEnd(t *testing.T) {
	var said []string
	ctx, stop := context.WithCancel(t.Context())
	stopper := partFunc(func(context.Context, *draft) (change, error) {
		stop()
		return noted{name: "b", said: &said}, nil
	})
	err := install(ctx, []part{noted{name: "a", said: &said}, stopper}, &draft{}, nil)
	if want := []string{"prepare a", "rollback b", "rollback a"}; !errors.Is(err, context.Canceled) || !slices.Equal(said, want) {
		t.Errorf("got %v, %q", err, said)
	}
}
