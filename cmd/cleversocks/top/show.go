package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/tview"

	"cleversocks/metrics/admin"
)

// load is what the daemon does in a second, and of a processor.
type load struct{ in, out, cpu float64 }

// show takes what was told, and draws it.
func (v *view) show(s admin.Status, page admin.SessionPage, err error) {
	if err != nil {
		v.head.SetText(" " + v.o.Safe(err.Error()) + "\n\n it is asked again; q leaves")
		return
	}
	now := time.Now()
	v.load = load{}
	if passed := now.Sub(v.at).Seconds(); !v.at.IsZero() && passed > 0 && s.PID == v.last.PID {
		v.load = load{float64(s.BytesIn-v.last.BytesIn) / passed, float64(s.BytesOut-v.last.BytesOut) / passed, 100 * (s.CPU - v.last.CPU) / passed}
	}
	selected := v.selected()
	v.last, v.at, v.page = s, now, page
	v.fill()
	if selected == nil {
		return
	}
	for n := range page.Sessions { // what is selected stays so, wherever it has moved to
		if page.Sessions[n].ID == selected.ID {
			v.table.Select(n+1, 0)
		}
	}
}

// fill puts what is known on a screen of the present width.
func (v *view) fill() {
	now := time.Now()
	if now.After(v.said.Add(keysAgain)) {
		v.keys()
	}
	if v.at.IsZero() {
		return // nothing was told yet
	}
	v.head.SetText(v.summary(now))
	row, _ := v.table.GetSelection()
	v.table.Clear()
	shown := fitting(v.width)
	for i, c := range shown {
		v.table.SetCell(0, i, tview.NewTableCell(c.title).SetSelectable(false).SetAttributes(tcell.AttrBold).SetAlign(c.align()).SetExpansion(c.grows))
	}
	for n := range v.page.Sessions {
		for i, c := range shown {
			text := tview.Escape(v.o.Safe(c.text(v, &v.page.Sessions[n], now)))
			v.table.SetCell(n+1, i, tview.NewTableCell(text).SetAlign(c.align()).SetExpansion(c.grows).SetMaxWidth(c.most))
		}
	}
	v.table.Select(max(1, min(row, len(v.page.Sessions))), 0)
}

// column is one of the table.
type column struct {
	title  string
	from   int // it is shown on screens at least as wide
	most   int // its width, where strangers may fill it; 0: any
	grows  int // its part of the room that is left
	number bool
	text   func(v *view, s *admin.Session, now time.Time) string
}

func (c *column) align() int {
	if c.number {
		return tview.AlignRight
	}
	return tview.AlignLeft
}

var columns = []column{
	{title: "ID", from: 64, text: func(_ *view, s *admin.Session, _ time.Time) string { return s.ID }},
	{title: "USER", most: 20, text: func(_ *view, s *admin.Session, _ time.Time) string { return or(s.User, "-") }},
	{title: "CLIENT", from: 84, most: 47, text: client}, // an IPv6 address with its port
	{title: "TARGET", most: 60, grows: 1, text: target},
	{title: "AGE", from: 64, number: true, text: func(v *view, s *admin.Session, now time.Time) string { return v.o.Age(now.Sub(s.Started)) }},
	{title: "IN", from: 110, number: true, text: func(v *view, s *admin.Session, _ time.Time) string { return v.o.Size(float64(s.BytesIn)) }},
	{title: "OUT", from: 110, number: true, text: func(v *view, s *admin.Session, _ time.Time) string { return v.o.Size(float64(s.BytesOut)) }},
	{title: "IN/S", from: 52, number: true, text: func(v *view, s *admin.Session, _ time.Time) string { return v.o.Size(s.RateIn) }},
	{title: "OUT/S", number: true, text: func(v *view, s *admin.Session, _ time.Time) string { return v.o.Size(s.RateOut) }},
}

// fitting are the columns for which a screen has room.
func fitting(width int) (shown []column) {
	for _, c := range columns {
		if width >= c.from {
			if width < 64 && c.most > 0 { // a name keeps no place from the numbers
				c.most = width / 3
			}
			shown = append(shown, c)
		}
	}
	return shown
}

func client(_ *view, s *admin.Session, _ time.Time) string {
	if s.Process != 0 {
		return fmt.Sprintf("%s (process %d drains)", s.Client, s.Process)
	}
	return s.Client
}

func target(_ *view, s *admin.Session, _ time.Time) string {
	switch {
	case s.Handshake:
		return "(handshake)"
	case s.Requests:
		return "(requests)"
	}
	return or(s.Target, "-")
}

// headLines is how many lines the summary has.
const headLines = 4

// summary is the daemon in four lines, the more telling parts of them first.
func (v *view) summary(now time.Time) string {
	s := &v.last
	state := "ready"
	switch {
	case !s.Ready:
		state = "not ready: " + s.Reason
	case len(s.Degraded) > 0:
		state = "degraded: " + strings.Join(s.Degraded, "; ")
	}
	shown := fmt.Sprintf("sorted by %s, %d of %d", v.sort.Load(), len(v.page.Sessions), v.page.Total)
	if f := v.filter.Load().(string); f != "" {
		shown += fmt.Sprintf(" with %q", f)
	}
	lines := [headLines][]string{
		{"cleversocks " + s.Version, state, "up for " + v.o.Age(now.Sub(s.Started)), fmt.Sprintf("process %d", s.PID)},
		{fmt.Sprintf("%d connections of %d", s.Connections, s.Limit), fmt.Sprintf("CPU %.0f %%", v.load.cpu), "memory " + v.o.Size(float64(s.Memory)), fmt.Sprintf("%d accepted", s.Accepted)},
		{v.o.Size(v.load.in) + "/s in", v.o.Size(v.load.out) + "/s out"},
		{shown},
	}
	var b strings.Builder
	for _, parts := range lines {
		line := ""
		for _, part := range parts {
			part = v.o.Safe(part)
			if line == "" {
				line = " " + part
			} else if len(line)+2+len(part) <= v.width {
				line += ", " + part
			}
		}
		b.WriteString(line + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}
