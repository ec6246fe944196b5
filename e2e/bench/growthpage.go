//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// curve is one figure of a subject's points.
type curve struct {
	title  string
	of     func(point) float64
	linear bool // it grows with the count: drawn with both axes logarithmic
	format string
}

var curves = []curve{
	{"load, CPU s", func(p point) float64 { return p.load }, true, "%.2f"},
	{"memory, MiB", func(p point) float64 { return p.memory }, true, "%.1f"},
	{"CPU of a connection, µs", func(p point) float64 { return p.connect }, false, "%.0f"},
	{"p99, µs", func(p point) float64 { return p.p99 }, false, "%.0f"},
}

// measureGrowth runs the subjects, draws them into a folder named growth beside
// the page, and writes the page. What is not measured anew stays as it was.
func measureGrowth(ctx context.Context, o options, dir string) error {
	g := &growth{binary: o.ours, dir: dir}
	if g.binary == "" {
		g.binary = filepath.Join(dir, "cleversocks")
	}
	kept, err := keptSections(o.write)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	growthHeading(&page)
	for _, s := range subjects {
		if o.measure != "" && !slices.Contains(strings.Split(o.measure, ","), s.name) {
			page.WriteString(kept[s.heading()])
			continue
		}
		points, err := s.points(ctx, g, o.rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		picture := filepath.Join("growth", s.name+".svg")
		s.write(&page, points, picture, o.rounds)
		if o.write == "" {
			continue
		}
		path := filepath.Join(filepath.Dir(o.write), picture)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := s.draw(path, points); err != nil {
			return err
		}
	}
	if _, err := os.Stdout.Write(page.Bytes()); err != nil || o.write == "" {
		return err
	}
	return os.WriteFile(o.write, page.Bytes(), 0o644)
}

// heading is the first line of the subject's section.
func (s subject) heading() string { return "## " + strings.ToUpper(s.title[:1]) + s.title[1:] }

// keptSections are the sections of a page, by their first lines; of no page,
// none.
func keptSections(path string) (map[string]string, error) {
	kept := make(map[string]string)
	if path == "" {
		return kept, nil
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	heading := ""
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "## ") {
			heading = strings.TrimSpace(line)
		}
		if heading != "" {
			kept[heading] += line
		}
	}
	return kept, nil
}

// points are the medians over the rounds, each figure by itself. In a round each
// count has its turn, so that who else uses the machine disturbs all of them alike.
func (s subject) points(ctx context.Context, g *growth, rounds int) ([]point, error) {
	all := make([][]point, len(s.counts))
	for round := range rounds {
		for i, n := range s.counts {
			p, err := s.run(ctx, g, n)
			if err != nil {
				return nil, fmt.Errorf("%d: %w", n, err)
			}
			all[i] = append(all[i], p)
			fmt.Fprintf(os.Stderr, "round %d of %d: %s %d: %+v\n", round+1, rounds, s.name, n, p)
		}
	}
	points := make([]point, len(s.counts))
	for i := range points {
		middle := func(of func(point) float64) float64 {
			var numbers []float64
			for _, p := range all[i] {
				numbers = append(numbers, of(p))
			}
			m, _ := median(numbers)
			return m
		}
		points[i] = point{middle(curves[0].of), middle(curves[1].of), middle(curves[2].of), middle(curves[3].of)}
	}
	return points, nil
}

// measuredCurves are those that there are figures for.
func measuredCurves(points []point) []curve {
	return slices.DeleteFunc(slices.Clone(curves), func(c curve) bool {
		return !slices.ContainsFunc(points, func(p point) bool { return c.of(p) != 0 })
	})
}

// slope is the power of the count that a figure grows with between the two
// largest counts, above what it is at the smallest: 1 is linear, 0 is flat.
func slope(s subject, points []point, c curve) float64 {
	n := len(points)
	base := c.of(points[0])
	a, b := c.of(points[n-2])-base, c.of(points[n-1])-base
	if a <= 0 || b <= 0 {
		return 0
	}
	return math.Log(b/a) / math.Log(float64(s.counts[n-1])/float64(s.counts[n-2]))
}

// write is the subject's section of the page.
func (s subject) write(b *bytes.Buffer, points []point, picture string, rounds int) {
	fmt.Fprintf(b, "%s\n\n%s\n\nMedians of %d, %s.\n\n![%s](%s)\n\n", s.heading(), s.says, rounds, time.Now().UTC().Format(time.DateOnly), s.title, filepath.ToSlash(picture))
	shown := measuredCurves(points)
	fmt.Fprintf(b, "| %s |", s.title)
	for _, c := range shown {
		fmt.Fprintf(b, " %s |", c.title)
	}
	fmt.Fprintf(b, "\n|%s\n", strings.Repeat("---:|", len(shown)+1))
	for i, p := range points {
		fmt.Fprintf(b, "| %d |", s.counts[i])
		for _, c := range shown {
			fmt.Fprintf(b, " "+c.format+" |", c.of(p))
		}
		fmt.Fprintln(b)
	}
	for _, c := range shown {
		if c.linear {
			fmt.Fprintf(b, "\nAbove its smallest, %s grows with the power %.2f of the number between the last two points.\n", c.title, slope(s, points, c))
		}
	}
	fmt.Fprintln(b)
}

// draw makes one picture of all the subject's figures, side by side.
func (s subject) draw(path string, points []point) error {
	shown := measuredCurves(points)
	row := make([]*plot.Plot, 0, len(shown))
	for _, c := range shown {
		p, err := s.plot(points, c)
		if err != nil {
			return err
		}
		row = append(row, p)
	}
	const side = 6.5 * vg.Centimeter
	canvas := vgsvg.New(side*vg.Length(len(row)), side)
	tiles := draw.Tiles{Rows: 1, Cols: len(row), PadX: vg.Millimeter * 4, PadTop: vg.Millimeter * 2, PadBottom: vg.Millimeter * 2, PadLeft: vg.Millimeter * 2, PadRight: vg.Millimeter * 4}
	for i, c := range plot.Align([][]*plot.Plot{row}, tiles, draw.New(canvas))[0] {
		row[i].Draw(c)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

func (s subject) plot(points []point, c curve) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = c.title, s.title
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.BackgroundColor = nil
	var xy plotter.XYs
	for i, at := range points {
		xy = append(xy, plotter.XY{X: float64(s.counts[i]), Y: max(c.of(at), 1e-3)})
	}
	line, dots, err := plotter.NewLinePoints(xy)
	if err != nil {
		return nil, err
	}
	p.Add(plotter.NewGrid(), line, dots)
	if c.linear {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		// What is exactly linear is parallel to the broken line.
		last := xy[len(xy)-1]
		from := plotter.XY{X: last.X / 10, Y: last.Y / 10}
		guide, err := plotter.NewLine(plotter.XYs{from, last})
		if err != nil {
			return nil, err
		}
		guide.Dashes = []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(guide)
	} else {
		p.Y.Min, p.Y.Max = 0, p.Y.Max*1.2
	}
	return p, nil
}

func growthHeading(b *bytes.Buffer) {
	fmt.Fprintf(b, `# Growth

What more tunnels, rules, users and names cost, written by `+"`go run ./e2e/bench -growth -write docs/growth.md`"+`
(`+"`-measure rules`"+` and the like: one section alone).

- Processor: %s, %d cores in use
- Kernel: %s
- Each point: a daemon that was started for it, and connections from %d clients at once, on the cores that the proxy has too

Memory is the process's own, without the pages of the program's file, and the kernel's for it; the process alone has 4 to 9 MiB, by when its last collection was. Figures that should be proportional to the number have both axes
logarithmic, and a broken line that is exactly proportional; the others begin at 0. The p99 is of a connection, from the client's dial to
its first byte back, where nothing else is said: it is the machine's more than the proxy's while others use it. A connection's processor time
is that of 8,000 connections (4,000 beside tunnels), garbage collections among them, and good to a tenth where the machine is shared: of 2,000 connections
in one round it was good to a quarter, and such a page had curves that were not there.

`, processor(), runtime.NumCPU(), kernel(), openers)
}
