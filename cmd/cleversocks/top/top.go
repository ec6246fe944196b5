// Package top is a terminal's view of a running daemon: its load, and its
// sessions, which can be sorted, filtered and closed.
//
//	err := top.Run(ctx, top.Options{Status: ..., Sessions: ..., Close: ...})
package top

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/tview"

	"cleversocks/conn/task"
	"cleversocks/metrics/admin"
)

// Options are how the daemon is asked.
type Options struct {
	Status   func(context.Context) (admin.Status, error)
	Sessions func(ctx context.Context, sort string, f Filter, limit int) (admin.SessionPage, error)
	Close    func(ctx context.Context, id string) error
	Every    time.Duration // between looks
	Size     func(bytes float64) string
	Age      func(time.Duration) string
	Safe     func(string) string // makes a text that strangers chose one that a terminal shows
	Screen   tcell.Screen        // nil: the terminal
}

// rows is how many sessions are asked for: more than a terminal shows.
const rows = 500

// keysAgain is how long what came of a key stands in the place of the keys.
const keysAgain = 5 * time.Second

// answerTime bounds one question.
const answerTime = 10 * time.Second

// orders are the ways to sort, by key.
var orders = []struct {
	key  rune
	name string
}{{'r', "rate"}, {'b', "bytes"}, {'a', "age"}}

// view is the screen. Its fields belong to the application's goroutine, but for those that are
// atomic.
type view struct {
	o     Options
	app   *tview.Application
	pages *tview.Pages
	head  *tview.TextView
	table *tview.Table
	foot  *tview.TextView
	input *tview.InputField

	sort, filter atomic.Value // string
	again        chan struct{}
	work         func(func() error) // runs what may wait, until the view is left
	page         admin.SessionPage
	last         admin.Status
	at           time.Time // of last
	load         load      // between the last two looks
	said         time.Time // when foot had something else than keys
	width        int       // of the screen
}

// Run shows the daemon until it is left, or ctx ends.
func Run(ctx context.Context, o Options) error {
	v := newView(o)
	if o.Screen != nil {
		v.app.SetScreen(o.Screen)
	}
	scope, inner := task.New(ctx, nil, "top")
	v.work = scope.Go
	scope.Go(func() error { v.look(inner); return nil })
	scope.Go(func() error { <-inner.Done(); v.app.Stop(); return nil })
	err := v.app.Run()
	scope.Cancel(context.Canceled)
	_ = scope.Wait() // the end was ours
	return err
}

func newView(o Options) *view {
	v := &view{
		o: o, app: tview.NewApplication(), pages: tview.NewPages(), head: tview.NewTextView(), table: tview.NewTable(),
		foot: tview.NewTextView(), input: tview.NewInputField(), again: make(chan struct{}, 1),
	}
	v.sort.Store("rate")
	v.filter.Store("")
	v.head.SetDynamicColors(false).SetWrap(false)
	v.table.SetSelectable(true, false).SetFixed(1, 0)
	v.table.SetSelectedStyle(tcell.StyleDefault.Reverse(true))
	v.input.SetLabel(" filter: ").SetPlaceholder("words, user:NAME client:ADDR target:TEXT; empty: all").SetFieldBackgroundColor(tcell.ColorDefault)
	v.input.SetPlaceholderStyle(tcell.StyleDefault.Dim(true))
	v.input.SetDoneFunc(v.filtered)
	tview.Styles.PrimitiveBackgroundColor = tcell.ColorDefault // the terminal's own
	body := tview.NewFlex().SetDirection(tview.FlexRow).
		AddItem(v.head, headLines, 0, false).AddItem(v.table, 0, 1, true).AddItem(v.foot, 1, 0, false)
	for _, p := range []interface{ SetBackgroundColor(tcell.Color) *tview.Box }{v.head, v.table, v.foot, v.input, body, v.pages} {
		p.SetBackgroundColor(tcell.ColorDefault)
	}
	v.pages.AddPage("main", body, true, true)
	v.app.SetRoot(v.pages, true).SetInputCapture(v.key).SetBeforeDrawFunc(func(screen tcell.Screen) bool {
		if width, _ := screen.Size(); width != v.width { // the terminal has another size
			v.width = width
			v.fill()
		}
		return false
	})
	return v
}

// keys says what can be done, as far as there is room.
func (v *view) keys() {
	text := ""
	for _, part := range []string{" q leave", "  / filter", "  k close", "  r b a sort by rate, bytes, age", "  Enter shows all of a session"} {
		if len(text)+len(part) <= v.width {
			text += part
		}
	}
	v.foot.SetText(text)
}

// say puts what came of a key in the place of the keys, for a while.
func (v *view) say(text string) {
	v.foot.SetText(" " + v.o.Safe(text))
	v.said = time.Now()
}

// key is what a key does, unless something else is on top.
func (v *view) key(e *tcell.EventKey) *tcell.EventKey {
	if name, _ := v.pages.GetFrontPage(); name != "main" {
		return e
	}
	if e.Key() == tcell.KeyEnter {
		v.tell()
		return nil
	}
	switch e.Rune() {
	case 'q':
		v.app.Stop()
		return nil
	case '/':
		v.input.SetText(v.filter.Load().(string))
		v.pages.AddPage("filter", tview.NewFlex().SetDirection(tview.FlexRow).AddItem(nil, 0, 1, false).AddItem(v.input, 1, 0, true), true, true)
		v.app.SetFocus(v.input)
		return nil
	case 'k':
		v.ask()
		return nil
	}
	for _, order := range orders {
		if e.Rune() == order.key {
			v.sort.Store(order.name)
			v.table.Select(1, 0).ScrollToBeginning()
			v.soon()
			return nil
		}
	}
	return e
}

func (v *view) filtered(key tcell.Key) {
	if key == tcell.KeyEnter {
		v.filter.Store(v.input.GetText())
		v.table.Select(1, 0).ScrollToBeginning()
	}
	v.pages.RemovePage("filter")
	v.app.SetFocus(v.table)
	v.soon()
}

// selected is the session that the cursor is on; nil: none.
func (v *view) selected() *admin.Session {
	row, _ := v.table.GetSelection()
	if row < 1 || row > len(v.page.Sessions) {
		return nil
	}
	s := v.page.Sessions[row-1]
	return &s
}

// modal puts a question in front; answered hears the button.
func (v *view) modal(text string, answered func(label string), buttons ...string) {
	v.pages.AddPage("question", tview.NewModal().SetText(text).AddButtons(buttons).SetDoneFunc(func(_ int, label string) {
		v.pages.RemovePage("question")
		v.app.SetFocus(v.table)
		answered(label)
	}), true, true)
}

// tell shows all that is known of the session that is selected.
func (v *view) tell() {
	s := v.selected()
	if s == nil {
		return
	}
	var b strings.Builder
	for _, line := range [][2]string{
		{"session", s.ID},
		{"client", s.Client},
		{"user", s.User},
		{"log-in", s.Auth},
		{"listener", s.Listener},
		{"protocol", s.Protocol + " " + s.Command},
		{"target", s.Target},
		{"connected to", s.HostIP},
		{"from", s.Local},
		{"upstream", s.Upstream},
		{"rule", s.Rule},
		{"since", s.Started.Local().Format(time.DateTime)},
		{"moved", v.o.Size(float64(s.BytesIn)) + " in, " + v.o.Size(float64(s.BytesOut)) + " out"},
	} {
		if strings.TrimSpace(line[1]) != "" {
			b.WriteString(line[0] + ": " + v.o.Safe(line[1]) + "\n")
		}
	}
	v.modal(tview.Escape(b.String()), func(string) {}, "Back")
}

// ask asks before it closes the session that is selected.
func (v *view) ask() {
	s := v.selected()
	if s == nil {
		return
	}
	v.modal(tview.Escape(fmt.Sprintf("Close the session %s of %s to %s?", s.ID, v.o.Safe(or(s.User, s.Client)), v.o.Safe(or(s.Target, "-")))), func(label string) {
		if label == "Yes" {
			v.work(func() error { v.end(s.ID); return nil })
		}
	}, "No", "Yes")
}

// end closes a session. It waits for the daemon, and so is no key's to call.
func (v *view) end(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	said := "session " + id + " is closed"
	if err := v.o.Close(ctx, id); err != nil {
		said = err.Error()
	}
	v.app.QueueUpdateDraw(func() { v.say(said) })
	v.soon()
}

func (v *view) soon() {
	select {
	case v.again <- struct{}{}:
	default:
	}
}

// look asks the daemon again and again.
func (v *view) look(ctx context.Context) {
	tick := time.NewTicker(v.o.Every)
	defer tick.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, answerTime)
		status, err := v.o.Status(asking)
		var page admin.SessionPage
		if err == nil {
			page, err = v.o.Sessions(asking, v.sort.Load().(string), parseFilter(v.filter.Load().(string)), rows)
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		v.app.QueueUpdateDraw(func() { v.show(status, page, err) })
		select {
		case <-tick.C:
		case <-v.again:
		case <-ctx.Done():
			return
		}
	}
}
