package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"runtime/debug"
	"strings"
)

// A document is what we use of CycloneDX 1.6. It has no serial number and no
// time, which would be other ones for each that writes it.
type document struct {
	Schema     string      `json:"$schema"`
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Component component `json:"component"`
}

// A component is the program, or a module of it.
type component struct {
	Ref      string    `json:"bom-ref"`
	Type     string    `json:"type"`
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Hashes   []hash    `json:"hashes,omitempty"`
	Licenses []license `json:"licenses,omitempty"`
	URL      string    `json:"purl"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type license struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

// newDocument returns the document of a program with that SHA-256.
func newDocument(name, version, sum string, info *buildinfo.BuildInfo) document {
	program := component{
		Type: "application", Name: name, Version: version, Hashes: []hash{{"SHA-256", sum}}, Licenses: make([]license, 1),
		URL: packageURL(info.Main.Path, version) + "#" + strings.TrimPrefix(info.Path, info.Main.Path+"/"),
	}
	program.Ref = program.URL
	program.Licenses[0].License.ID = "Apache-2.0"
	toolchain, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ") // experiments follow
	d := document{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: metadata{program}, Components: []component{library("std", toolchain, "")},
	}
	for _, m := range info.Deps {
		d.Components = append(d.Components, moduleOf(m))
	}
	return d
}

// moduleOf returns the module that was linked, which may stand for another.
func moduleOf(m *debug.Module) component {
	if m.Replace != nil {
		m = m.Replace
	}
	return library(m.Path, m.Version, m.Sum)
}

// library returns the component of a module; sum is that of go.sum, whose h1 is
// a SHA-256.
func library(path, version, sum string) component {
	c := component{Type: "library", Name: path, Version: version, URL: packageURL(path, version)}
	c.Ref = c.URL
	if h1, ok := strings.CutPrefix(sum, "h1:"); ok {
		if raw, err := base64.StdEncoding.DecodeString(h1); err == nil {
			c.Hashes = []hash{{"SHA-256", hex.EncodeToString(raw)}}
		}
	}
	return c
}

// packageURL names a module as databases of vulnerabilities do.
func packageURL(path, version string) string {
	return "pkg:golang/" + path + "@" + url.QueryEscape(version) // a + is part of some
}
