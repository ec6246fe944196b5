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
	Sessions func(ctx context.Context, sort, filter string, limit int) (admin.SessionPage, error)
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
	sessions     []admin.Session
	last         admin.Status
	at           time.Time
	said         time.Time // when foot had something else than keys
}

// Run shows the daemon until it is left, or ctx ends.
func Run(ctx context.Context, o Options) error {
	v := newView(o)
	if o.Screen != nil {
		v.app.SetScreen(o.Screen)
	}
	scope, inner := task.New(ctx, nil, "top")
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
	v.input.SetLabel("filter (a part of the target; empty: all): ").SetFieldBackgroundColor(tcell.ColorDefault)
	v.input.SetDoneFunc(v.filtered)
	tview.Styles.PrimitiveBackgroundColor = tcell.ColorDefault // the terminal's own
	body := tview.NewFlex().SetDirection(tview.FlexRow).
		AddItem(v.head, 4, 0, false).AddItem(v.table, 0, 1, true).AddItem(v.foot, 1, 0, false)
	for _, p := range []interface{ SetBackgroundColor(tcell.Color) *tview.Box }{v.head, v.table, v.foot, v.input, body, v.pages} {
		p.SetBackgroundColor(tcell.ColorDefault)
	}
	v.pages.AddPage("main", body, true, true)
	v.app.SetRoot(v.pages, true).SetInputCapture(v.key)
	v.keys()
	return v
}

func (v *view) keys() {
	v.foot.SetText(" r b a: sort by rate, bytes, age   /: filter   k: close a session   q: leave")
}

// key is what a key does, unless something else is on top.
func (v *view) key(e *tcell.EventKey) *tcell.EventKey {
	if name, _ := v.pages.GetFrontPage(); name != "main" {
		return e
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

// ask asks before it closes the session that is selected.
func (v *view) ask() {
	row, _ := v.table.GetSelection()
	if row < 1 || row > len(v.sessions) {
		return
	}
	s := v.sessions[row-1]
	modal := tview.NewModal().SetText(fmt.Sprintf("Close the session %s of %s to %s?", s.ID, v.o.Safe(or(s.User, s.Client)), v.o.Safe(or(s.Target, "-")))).
		AddButtons([]string{"No", "Yes"}).
		SetDoneFunc(func(_ int, label string) {
			v.pages.RemovePage("question")
			v.app.SetFocus(v.table)
			if label == "Yes" {
				v.end(s.ID)
			}
		})
	v.pages.AddPage("question", modal, true, true)
}

func (v *view) end(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if err := v.o.Close(ctx, id); err != nil {
		v.foot.SetText(" " + v.o.Safe(err.Error()))
	} else {
		v.foot.SetText(" session " + id + " is closed")
	}
	v.said = time.Now()
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
			page, err = v.o.Sessions(asking, v.sort.Load().(string), v.filter.Load().(string), rows)
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

// show draws what was told.
func (v *view) show(s admin.Status, page admin.SessionPage, err error) {
	if err != nil {
		v.head.SetText(" " + v.o.Safe(err.Error()) + "\n\n it is asked again; q leaves")
		return
	}
	now := time.Now()
	v.head.SetText(v.summary(s, page, now))
	v.last, v.at = s, now
	if now.After(v.said.Add(keysAgain)) {
		v.keys()
	}
	// What is selected stays so, wherever it has moved to.
	row, _ := v.table.GetSelection()
	selected := ""
	if row >= 1 && row <= len(v.sessions) {
		selected = v.sessions[row-1].ID
	}
	v.sessions = page.Sessions
	v.table.Clear()
	_, _, room, _ := v.table.GetInnerRect()
	for i, title := range titles {
		if !fits(i, room) {
			continue
		}
		v.table.SetCell(0, i, tview.NewTableCell(title).SetSelectable(false).SetAttributes(tcell.AttrBold).SetAlign(align(i)).SetExpansion(expansion(i)))
	}
	for n := range page.Sessions {
		one := &page.Sessions[n]
		for i, text := range v.cells(one, now) {
			if !fits(i, room) {
				continue
			}
			v.table.SetCell(n+1, i, tview.NewTableCell(tview.Escape(v.o.Safe(text))).SetAlign(align(i)).SetExpansion(expansion(i)).SetMaxWidth(width(i)))
		}
		if one.ID == selected {
			row = n + 1
		}
	}
	v.table.Select(max(1, min(row, len(page.Sessions))), 0)
}

// titles are the columns.
var titles = []string{"ID", "USER", "CLIENT", "TARGET", "AGE", "IN", "OUT", "IN/S", "OUT/S"}

// fits leaves columns out where the terminal is narrow.
func fits(column, room int) bool {
	const wide, middle = 110, 84
	switch titles[column] {
	case "IN", "OUT":
		return room >= wide
	case "CLIENT":
		return room >= middle
	}
	return true
}

func (v *view) cells(s *admin.Session, now time.Time) []string {
	target := s.Target
	if s.Handshake {
		target = "(handshake)"
	}
	client := s.Client
	if s.Process != 0 {
		client += fmt.Sprintf(" (process %d drains)", s.Process)
	}
	return []string{
		s.ID, or(s.User, "-"), client, or(target, "-"), v.o.Age(now.Sub(s.Started)),
		v.o.Size(float64(s.BytesIn)), v.o.Size(float64(s.BytesOut)), v.o.Size(s.RateIn), v.o.Size(s.RateOut),
	}
}

// summary is the daemon in four lines.
func (v *view) summary(s admin.Status, page admin.SessionPage, now time.Time) string {
	state := "ready"
	switch {
	case !s.Ready:
		state = "not ready: " + s.Reason
	case len(s.Degraded) > 0:
		state = "degraded: " + strings.Join(s.Degraded, "; ")
	}
	in, out, cpu := 0.0, 0.0, 0.0
	if passed := now.Sub(v.at).Seconds(); !v.at.IsZero() && passed > 0 && s.PID == v.last.PID {
		in, out = float64(s.BytesIn-v.last.BytesIn)/passed, float64(s.BytesOut-v.last.BytesOut)/passed
		cpu = 100 * (s.CPU - v.last.CPU) / passed
	}
	shown := fmt.Sprintf("sorted by %s, %d of %d", v.sort.Load(), len(page.Sessions), page.Total)
	if f := v.filter.Load().(string); f != "" {
		shown += fmt.Sprintf(" to %q", f)
	}
	return fmt.Sprintf(" cleversocks %s, process %d, up for %s: %s\n %d connections of %d, %d accepted; CPU %.0f %%, memory %s\n from clients %s/s, to clients %s/s\n %s",
		v.o.Safe(s.Version), s.PID, v.o.Age(now.Sub(s.Started)), v.o.Safe(state), s.Connections, s.Limit, s.Accepted, cpu, v.o.Size(float64(s.Memory)),
		v.o.Size(in), v.o.Size(out), v.o.Safe(shown))
}

func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}

// align has numbers on the right.
func align(column int) int {
	if column >= 4 {
		return tview.AlignRight
	}
	return tview.AlignLeft
}

// expansion gives the target what room there is.
func expansion(column int) int {
	if column == 3 {
		return 1
	}
	return 0
}

// width bounds what strangers may fill.
func width(column int) int {
	switch column {
	case 1:
		return 20
	case 2:
		return 47 // an IPv6 address with its port
	case 3:
		return 60
	}
	return 0
}
