package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
)

// A Page is one picture.
type Page struct {
	body bytes.Buffer
}

const font = `font-family="Inter, 'Helvetica Neue', Arial, sans-serif"`

// Bytes returns the picture of that size as an SVG document.
func (p *Page) Bytes(width, height float64) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%[1]g" height="%[2]g" %s>`+"\n", width, height, font)
	fmt.Fprintf(&out, `<rect width="%g" height="%g" fill="%s"/>`+"\n", width, height, canvas)
	out.Write(p.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// Text writes a line. The anchor is start, middle or end.
func (p *Page) Text(x, y, size float64, color, anchor, line string) {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(line)) // into memory: cannot fail
	fmt.Fprintf(&p.body, `<text x="%.1f" y="%.1f" font-size="%g" fill="%s" text-anchor="%s">%s</text>`+"\n", x, y, size, color, anchor, escaped.String())
}

// Heading writes the title of a row.
func (p *Page) Heading(x, y float64, title string) {
	p.path("none", text, 1.5, fmt.Sprintf("M%.1f %.1fl4 4l4 -4", x, y-6))
	fmt.Fprintf(&p.body, `<g font-weight="600">`)
	p.Text(x+16, y, 15, text, "start", title)
	p.body.WriteString("</g>\n")
}

// Caption writes a line below or above everything.
func (p *Page) Caption(x, y float64, line string) { p.Text(x, y, 13, faint, "start", line) }

// Title writes the name of the page.
func (p *Page) Title(x, y float64, line string) {
	p.body.WriteString(`<g font-weight="600">`)
	p.Text(x, y, 20, text, "start", line)
	p.body.WriteString("</g>\n")
}

func (p *Page) line(x1, y1, x2, y2 float64, color string) {
	fmt.Fprintf(&p.body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, color)
}

func (p *Page) rect(b Box, fill, more string) {
	fmt.Fprintf(&p.body, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" %s/>`+"\n", b.X, b.Y, b.W, b.H, fill, more)
}

func (p *Page) path(fill, stroke string, width float64, d string) {
	fmt.Fprintf(&p.body, `<path fill="%s" stroke="%s" stroke-width="%g" stroke-linejoin="round" d="%s"/>`+"\n", fill, stroke, width, d)
}

// area is a filled path without an edge.
func (p *Page) area(fill string, opacity float64, d string) {
	fmt.Fprintf(&p.body, `<path fill="%s" fill-opacity="%g" d="%sZ"/>`+"\n", fill, opacity, d)
}
