package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// A dashboard is what is needed of Grafana's JSON to draw it.
type dashboard struct {
	Title  string  `json:"title"`
	Panels []panel `json:"panels"`
}

// A panel is a row, which has a title only, or shows queries.
type panel struct {
	Type        string   `json:"type"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	Place       place    `json:"gridPos"`
	Targets     []target `json:"targets"`
	Field       struct {
		Defaults struct {
			Unit   string   `json:"unit"`
			Min    *float64 `json:"min"`
			Custom struct {
				Stacking struct {
					Mode string `json:"mode"`
				} `json:"stacking"`
			} `json:"custom"`
			Thresholds struct {
				Steps []step `json:"steps"`
			} `json:"thresholds"`
		} `json:"defaults"`
		Overrides []override `json:"overrides"`
	} `json:"fieldConfig"`
}

// A place is in Grafana's grid, which is 24 columns wide.
type place struct{ X, Y, W, H int }

// A target is one query.
type target struct {
	Expr   string `json:"expr"`
	Legend string `json:"legendFormat"`
}

// A step is a color from a value on; the first one has none.
type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// An override gives a series of a name a color.
type override struct {
	Matcher    struct{ Options string }
	Properties []struct {
		ID    string
		Value struct {
			FixedColor string `json:"fixedColor"`
		}
	}
}

// color returns the fixed color of the series of that name, or "".
func (p *panel) color(name string) string {
	for _, o := range p.Field.Overrides {
		for _, property := range o.Properties {
			if o.Matcher.Options == name && property.ID == "color" {
				return property.Value.FixedColor
			}
		}
	}
	return ""
}

func readDashboard(path string) (*dashboard, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := new(dashboard)
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", path, err)
	}
	return d, nil
}

// window is how many scrapes a rate looks at.
const window = 8

// expression returns the query as Grafana asks it where all nodes and all
// providers are chosen.
func (t target) expression(every time.Duration) string {
	return strings.NewReplacer("$node", ".*", "$provider", ".*", "$__rate_interval", model.Duration(window*every).String()).Replace(t.Expr)
}
