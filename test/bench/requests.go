package main

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// requests counts calls of the API server by verb.
type requests map[string]float64

// watched are the resources that drivers call for. The API server itself
// leaves those of them alone.
var watched = map[string]bool{
	"secretproviderclasses": true, "secretproviderclasspodstatuses": true, "pods": true, "secrets": true, "events": true, "nodes": true, "serviceaccounts": true,
}

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// requests returns those since the API server started, without watches that go on.
func (c *cluster) requests(ctx context.Context) (requests, error) {
	text, err := c.call(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	return parseRequests(text)
}

func parseRequests(text []byte) (requests, error) {
	found := requests{}
	for line := range bytes.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(string(line)), "} ")
		if !ok || !strings.HasPrefix(series, "apiserver_request_total{") {
			continue
		}
		labels := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(series, -1) {
			labels[l[1]] = l[2]
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, err
		}
		if watched[labels["resource"]] {
			found[labels["verb"]] += n
		}
	}
	return found, nil
}

// since returns what was added, without verbs that were not.
func (r requests) since(before requests) requests {
	added := requests{}
	for verb, n := range r {
		if d := n - before[verb]; d > 0 {
			added[verb] = d
		}
	}
	return added
}

// writes are the verbs that change something, or try to.
func (r requests) writes() (n float64) {
	for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"} {
		n += r[verb]
	}
	return n
}
