package plot

// A Bars is one bar of each series in each group.
type Bars struct {
	Title  string
	Unit   string // of all values
	Series []string
	Groups []Group
}

// A Group is values of all series in their order. One that is missing is 0,
// and not drawn.
type Group struct {
	Name   string
	Values []float64
}

const (
	bar    = 15.0 // height, with the gap to the next
	top    = 72.0
	left   = 250.0
	right  = 90.0
	gap    = 14.0
	bottom = 36.0
)

// Draw returns the picture.
func (b Bars) Draw() []byte {
	p := new(page)
	p.head(b.Title, b.Series)
	high := 0.0
	height := top
	for _, g := range b.Groups {
		height += bar*float64(len(g.Values)) + gap
		for _, v := range g.Values {
			high = max(high, v)
		}
	}
	all := ticks(high)
	at := func(v float64) float64 { return left + v/all[len(all)-1]*(width-left-right) }
	for _, v := range all {
		p.line(at(v), top-6, at(v), height)
		p.text(at(v), height+18, 11.5, faint, "middle", short(v)+" "+b.Unit)
	}
	y := top
	for _, g := range b.Groups {
		p.text(left-12, y+bar*float64(len(g.Values))/2+3, 12.5, text, "end", g.Name)
		for i, v := range g.Values {
			if v > 0 {
				p.rect(left, y, max(1, at(v)-left), bar-3, palette(i))
				p.text(at(v)+6, y+10, 11, faint, "start", short(v))
			}
			y += bar
		}
		y += gap
	}
	return p.picture(height + bottom)
}
