package main

import (
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
)

// The plot: a panel of bars for each table whose values can be compared, and one
// of curves. Plain SVG, so that it can be read in a diff and shown anywhere.

const (
	width   = 900
	labels  = 290 // for the names of bars
	barRow  = 20
	heading = 34
	chart   = 240 // height of a panel of curves
	ourInk  = "#0b6e99"
	ink     = "#9aa5ab"
	pale    = "#dfe3e6"
)

// others are words in the names of what is not ours.
var others = []string{"C floor", "C read loop", "bufio.Scanner", "bubblewrap", nsjail, crun, runc, firejail, vfork}

var colours = []string{ourInk, "#d1495b", "#66a182", "#edae49", "#7d5ba6", "#2e4057", "#a44a3f"}

func (r *report) plot(w io.Writer) {
	var panels []string
	y := 10
	add := func(body string, height int) {
		panels = append(panels, fmt.Sprintf("<g transform=\"translate(0 %d)\">\n%s</g>\n", y, body))
		y += height + 16
	}
	for _, name := range r.order {
		t := r.tables[name]
		for _, unit := range t.units() {
			if body, height := t.bars(unit); height > 0 {
				add(body, height)
			}
		}
	}
	if len(r.curves) > 0 {
		add(plotCurves(r.curves))
	}
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, y)
	fmt.Fprintf(w, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", width, y)
	for _, p := range panels {
		io.WriteString(w, p)
	}
	io.WriteString(w, "</svg>\n")
}

func (t *table) units() (units []string) {
	for _, s := range t.series {
		if !slices.Contains(units, s.unit) {
			units = append(units, s.unit)
		}
	}
	return units
}

func label(x, y int, anchor, style, text string) string {
	return fmt.Sprintf("<text x=\"%d\" y=\"%d\" text-anchor=\"%s\" %s>%s</text>\n", x, y, anchor, style, html.EscapeString(text))
}

// bars are the medians, each with a line from p10 to p90.
func (t *table) bars(unit string) (body string, height int) {
	var list []*series
	for _, s := range t.series {
		if s.unit == unit && len(s.values) > 1 {
			list = append(list, s)
		}
	}
	if len(list) < 2 {
		return "", 0
	}
	most := 0.0
	for _, s := range list {
		most = max(most, quantile(s.sorted(), 0.9))
	}
	scale := float64(width-labels-80) / max(most, 1e-9)
	body = label(10, 16, "start", `font-weight="bold"`, t.title+", "+unit)
	for i, s := range list {
		y := heading + i*barRow
		v := s.sorted()
		at := func(p float64) int { return labels + int(quantile(v, p)*scale) }
		colour := ink
		if !slices.ContainsFunc(others, func(o string) bool { return strings.Contains(s.name, o) }) {
			colour = ourInk
		}
		body += label(labels-8, y+12, "end", "", s.name)
		body += fmt.Sprintf("<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"14\" fill=\"%s\"/>\n", labels, y+1, max(1, at(0.5)-labels), colour)
		body += fmt.Sprintf("<path d=\"M%d %dH%d\" stroke=\"black\" stroke-width=\"1\"/>\n", at(0.1), y+8, at(0.9))
		body += label(at(0.9)+6, y+12, "start", `fill="#555"`, short(quantile(v, 0.5)))
	}
	return body, heading + len(list)*barRow
}

// plotCurves draws memory against time, each curve from its own beginning.
func plotCurves(curves []curve) (body string, height int) {
	mostX, mostY := 1e-9, 1e-9
	for _, c := range curves {
		mostX, mostY = max(mostX, slices.Max(c.x)), max(mostY, slices.Max(c.y))
	}
	left, bottom := 60, heading+chart
	px := func(x float64) float64 { return float64(left) + x/mostX*float64(width-left-20) }
	py := func(y float64) float64 { return float64(bottom) - y/mostY*float64(chart) }
	body = label(10, 16, "start", `font-weight="bold"`, curves[0].panel+", MiB over seconds")
	for i := range 5 {
		part := float64(i) / 4
		body += fmt.Sprintf("<path d=\"M%d %.0fH%d\" stroke=\"%s\"/>\n", left, py(part*mostY), width-20, pale)
		body += label(left-6, int(py(part*mostY))+4, "end", "", short(part*mostY))
		body += label(int(px(part*mostX)), bottom+16, "middle", "", short(part*mostX))
	}
	for i, c := range curves {
		colour := colours[i%len(colours)]
		body += fmt.Sprintf("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour)
		for j := range c.x {
			body += fmt.Sprintf("%.1f,%.1f ", px(c.x[j]), py(c.y[j]))
		}
		body += "\"/>\n"
		body += label(left+10, bottom+36+i*16, "start", fmt.Sprintf("fill=\"%s\"", colour), c.name)
	}
	return body, heading + chart + 36 + len(curves)*16
}
