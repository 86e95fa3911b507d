package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	grafana "github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// Grafana's own types know every field of the dashboard.
func TestTheDashboardIsOneOfGrafana(t *testing.T) {
	var d grafana.Dashboard                                                                  //nolint:staticcheck // the newer schema is not what Grafana 11 imports
	if err := d.UnmarshalJSONStrict([]byte(readFile(t, dashboardFile))); err.Error() != "" { // an empty list, where all is well
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
	}
	if got := strings.Join(names, " "); got != "datasource node provider" {
		t.Errorf("the variables are %s", got)
	}
}

func TestPanelsHaveAPlaceOfTheirOwnAndSayWhatTheyShow(t *testing.T) {
	taken := make(map[[2]int]string)
	for _, p := range dashboardOf(t).Panels {
		if p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %q has no description or no query", p.Title)
		}
		for x := p.Place.X; x < p.Place.X+p.Place.W; x++ {
			for y := p.Place.Y; y < p.Place.Y+p.Place.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
					t.Fatalf("panel %q is where %q is, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

func TestThePictureHasEveryPanelWithData(t *testing.T) {
	d, r := dashboardOf(t), recordingOf(t)
	picture, err := draw(t.Context(), d, r, "a caption")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dashboard.svg")
	if err := os.WriteFile(path, picture, 0o600); err != nil {
		t.Fatal(err)
	}
	texts := textsOf(t, path)
	for _, p := range d.Panels {
		if !strings.Contains(texts, "\n"+p.Title+"\n") {
			t.Errorf("the picture has no %q", p.Title)
		}
		if series, err := r.answer(t.Context(), &p); p.Type != "row" && (err != nil || len(series) == 0) {
			t.Errorf("panel %q shows %d series, error %v", p.Title, len(series), err)
		}
	}
	if strings.Contains(texts, "No data") {
		t.Error("a panel of the picture says that it has no data")
	}
}

// The picture in the documentation is that of this dashboard.
func TestThePictureOfTheDocumentationIsUpToDate(t *testing.T) {
	texts := textsOf(t, filepath.Join(repository, "docs/observability.svg"))
	for _, p := range dashboardOf(t).Panels {
		if !strings.Contains(texts, "\n"+p.Title+"\n") {
			t.Errorf("docs/observability.svg has no panel %q: run make dashboard", p.Title)
		}
	}
}

// textsOf returns what is written in a picture, each text on a line.
func textsOf(t *testing.T, path string) string {
	t.Helper()
	picture, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	texts := "\n"
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts += string(text) + "\n"
		}
	}
}
