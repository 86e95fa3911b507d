package chart

import "fmt"

// The colors of Grafana's dark theme.
const (
	canvas = "#111217"
	ground = "#181b1f"
	edge   = "#2c3036"
	grid   = "#2a2e34"
	text   = "#d5d8df"
	faint  = "#8e939d"
)

// palette is what series get that have no color of their own.
func palette(i int) string {
	colors := []string{"#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#8ab8ff", "#f2495c", "#37872d", "#e0b400", "#ffa6b0", "#96d98d", "#ca95e5"}
	return colors[i%len(colors)]
}

// named returns the color of that name.
func named(name string) string {
	return map[string]string{"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2"}[name]
}

// color of a series, which is the i-th.
func (s Series) color(i int) string {
	if c := named(s.Color); c != "" {
		return c
	}
	return palette(i)
}

// heat returns a color between that of the panel and a bright orange.
func heat(share float64) string {
	at := func(from, to float64) int { return int(from + (to-from)*share) }
	switch {
	case share < 0.5:
		share *= 2
		return fmt.Sprintf("#%02x%02x%02x", at(0x4a, 0xd9), at(0x26, 0x48), at(0x10, 0x01))
	default:
		share = share*2 - 1
		return fmt.Sprintf("#%02x%02x%02x", at(0xd9, 0xfe), at(0x48, 0xe6), at(0x01, 0xce))
	}
}
