// Package tracetest collects the spans that a process sends, for tests.
package tracetest

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// A Span is one that was sent.
type Span struct {
	Name, Process, Trace string
	Error                string            // "" where it ended well
	Attributes           map[string]string // as text
	id, parent           string
}

// A Collector takes spans by both protocols of OTLP. It is safe for concurrent
// use.
type Collector struct {
	HTTP, GRPC string // its endpoints, as OTEL_EXPORTER_OTLP_ENDPOINT has them

	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []Span
	raw   []byte
}

// New starts a collector on an IP address of this machine. It ends with the test.
func New(t testing.TB, address string) *Collector {
	t.Helper()
	c := &Collector{}
	listen := func() net.Listener {
		lis, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		return lis
	}
	web := httptest.NewUnstartedServer(http.HandlerFunc(c.post))
	_ = web.Listener.Close()
	web.Listener = listen()
	web.Start()
	t.Cleanup(web.Close)
	lis := listen()
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	c.HTTP, c.GRPC = web.URL, "http://"+lis.Addr().String()
	return c
}

func (c *Collector) post(w http.ResponseWriter, r *http.Request) {
	var request collector.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), &request)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Export implements the service of OTLP.
func (c *Collector) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	raw, err := proto.Marshal(request)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, raw...)
	for _, of := range request.GetResourceSpans() {
		process := ""
		for _, attribute := range of.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				process = attribute.GetValue().GetStringValue()
			}
		}
		for _, scope := range of.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, read(process, span))
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, err
}

func read(process string, span *traces.Span) Span {
	s := Span{
		Name: span.GetName(), Process: process, Trace: hex.EncodeToString(span.GetTraceId()), Attributes: map[string]string{},
		id: hex.EncodeToString(span.GetSpanId()), parent: hex.EncodeToString(span.GetParentSpanId()),
	}
	if span.GetStatus().GetCode() == traces.Status_STATUS_CODE_ERROR {
		s.Error = "error: " + span.GetStatus().GetMessage()
	}
	for _, attribute := range span.GetAttributes() {
		value := attribute.GetValue()
		s.Attributes[attribute.GetKey()] = strings.Trim(value.GetStringValue()+fmt.Sprint(value.GetIntValue()), "0")
	}
	return s
}

// Spans returns what was sent so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Raw returns all that was sent so far, as it was sent.
func (c *Collector) Raw() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.raw)
}

// Tree returns the names of a trace's spans, each below the one that it is part
// of, by two spaces; those of one level in the order of their names.
func (c *Collector) Tree(trace string) string {
	below := map[string][]Span{}
	known := map[string]bool{}
	for _, s := range c.Spans() {
		if s.Trace == trace {
			below[s.parent] = append(below[s.parent], s)
			known[s.id] = true
		}
	}
	var out strings.Builder
	var write func(parent, indent string)
	write = func(parent, indent string) {
		slices.SortFunc(below[parent], func(a, b Span) int { return strings.Compare(a.Name, b.Name) })
		for _, s := range below[parent] {
			out.WriteString(indent + s.Name + "\n")
			write(s.id, indent+"  ")
		}
	}
	for _, parent := range slices.Sorted(maps.Keys(below)) {
		if !known[parent] {
			write(parent, "")
		}
	}
	return out.String()
}
