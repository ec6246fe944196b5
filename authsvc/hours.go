package authsvc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // an image with nothing but the program has no zones
)

// Hours are some hours of some days of the week, on the clock of a place.
type Hours struct {
	text     string
	days     [7]bool // by time.Weekday, on which they begin
	from, to int     // minutes since midnight; to is outside, and on the next day if it is not after from
	place    *time.Location
}

const dayMinutes = 24 * 60

// weekdays are the names of days, from Sunday on, as time.Weekday has them.
var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseHours reads "mon-fri 08:00-18:00 Europe/Berlin": days (one, a range, or
// several with commas; "daily" for all), a span that may pass midnight
// ("22:00-06:00"; "24:00" is its end), and a zone of the IANA's, else UTC.
func ParseHours(text string) (Hours, error) {
	fields := strings.Fields(text)
	if len(fields) < 2 || len(fields) > 3 {
		return Hours{}, errors.New(`days, a span and a zone are expected, such as "mon-fri 08:00-18:00 Europe/Berlin"`)
	}
	h := Hours{text: strings.Join(fields, " "), place: time.UTC}
	if err := h.parseDays(strings.ToLower(fields[0])); err != nil {
		return Hours{}, err
	}
	begin, end, ok := strings.Cut(fields[1], "-")
	var good, goodEnd bool
	h.from, good = minutesOf(begin)
	h.to, goodEnd = minutesOf(end)
	if !ok || !good || !goodEnd || h.from == dayMinutes || h.from == h.to {
		return Hours{}, fmt.Errorf("%q is no span such as 08:00-18:00", fields[1])
	}
	if len(fields) == 3 {
		place, err := time.LoadLocation(fields[2])
		if err != nil || strings.EqualFold(fields[2], "local") {
			return Hours{}, fmt.Errorf("%q is no zone such as Europe/Berlin", fields[2])
		}
		h.place = place
	}
	return h, nil
}

func (h *Hours) parseDays(text string) error {
	if text == "daily" {
		text = "sun-sat"
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := weekday(first), weekday(last)
		if from < 0 || to < 0 {
			return fmt.Errorf("%q are no days such as mon-fri or sat,sun", text)
		}
		for d := from; ; d = (d + 1) % 7 { // "fri-mon" passes the week's end
			h.days[d] = true
			if d == to {
				break
			}
		}
	}
	return nil
}

func weekday(name string) int {
	for i, d := range weekdays {
		if name == d {
			return i
		}
	}
	return -1
}

// minutesOf reads "08:30", up to "24:00".
func minutesOf(text string) (int, bool) {
	hour, minute, ok := strings.Cut(text, ":")
	h, err := strconv.ParseUint(hour, 10, 8)
	m, err2 := strconv.ParseUint(minute, 10, 8)
	n := int(h)*60 + int(m)
	return n, ok && err == nil && err2 == nil && len(minute) == 2 && m < 60 && n <= dayMinutes
}

// String is the text that they were read from.
func (h Hours) String() string { return h.text }

// Contains reports whether the clock of the place shows one of the hours.
func (h Hours) Contains(now time.Time) bool {
	local := now.In(h.place)
	day, minute := local.Weekday(), local.Hour()*60+local.Minute()
	if h.to > h.from {
		return h.days[day] && h.from <= minute && minute < h.to
	}
	return h.days[day] && minute >= h.from || h.days[(day+6)%7] && minute < h.to
}

// next is when they begin or end next. A day on which the clocks are changed
// may have a begin or an end at no time, or at two: it is off by an hour then
// at most, so who waits for it looks now and then all the same.
func (h Hours) next(now time.Time) (first time.Time) {
	local := now.In(h.place)
	for d := range 9 { // from yesterday on, whose span may end today
		date := local.AddDate(0, 0, d-1)
		if !h.days[date.Weekday()] {
			continue
		}
		end := h.to
		if h.to <= h.from {
			end += dayMinutes
		}
		for _, minute := range []int{h.from, end} {
			t := time.Date(date.Year(), date.Month(), date.Day(), 0, minute, 0, 0, h.place)
			if t.After(now) && (first.IsZero() || t.Before(first)) {
				first = t
			}
		}
	}
	return first
}
