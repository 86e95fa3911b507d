package chart

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// cells is how many columns a heat map has.
const cells = 40

// heat draws a row for each bucket that has anything in it, and for those
// between, and a column for each part of the time.
func (p *Page) heat(panel Panel, b Box) {
	rows, most := columns(panel)
	first := slices.IndexFunc(rows, func(r [cells]float64) bool { return slices.Max(r[:]) > 0 })
	if first < 0 {
		p.Text(b.X+b.W/2, b.Y+b.H/2+10, 14, faint, "middle", "No data")
		return
	}
	last := len(rows) - 1
	for slices.Max(rows[last][:]) == 0 {
		last--
	}
	in, _ := p.frame(panel, b, 1)
	height, width := in.H/float64(last-first+1), in.W/cells
	for i := first; i <= last; i++ {
		top := in.Y + in.H - float64(i-first+1)*height
		bound, _ := strconv.ParseFloat(panel.Series[i].Name, 64)
		label := "≤ " + format(bound, "s")
		if math.IsInf(bound, 1) {
			label = "more"
		}
		p.Text(in.X-8, top+height/2+4, 11.5, faint, "end", label)
		for j, v := range rows[i] {
			if v > 0.01 {
				p.rect(Box{in.X + float64(j)*width + 0.5, top + 0.5, width - 1, height - 1}, heat(math.Sqrt(v/most)), "")
			}
		}
	}
	p.scaleOfHeat(b, most)
}

// columns sums up the points of each series in columns, and returns the
// largest sum.
func columns(panel Panel) (rows [][cells]float64, most float64) {
	for _, s := range panel.Series {
		var row [cells]float64
		for _, pt := range s.Points {
			j := min(cells-1, int(pt.X/panel.Span.Seconds()*cells))
			row[j] = max(row[j], pt.Y)
			most = max(most, row[j])
		}
		rows = append(rows, row)
	}
	return rows, most
}

// scaleOfHeat says what the colors mean.
func (p *Page) scaleOfHeat(b Box, most float64) {
	y := b.Y + b.H - 10
	p.Text(b.X+gutter, y, 12, text, "start", "0")
	for i := range 40 {
		p.rect(Box{b.X + gutter + 14 + float64(i)*3, y - 8, 3.2, 8}, heat(float64(i)/39), "")
	}
	p.Text(b.X+gutter+142, y, 12, text, "start", fmt.Sprintf("%s at a time", short(math.Round(most))))
}
