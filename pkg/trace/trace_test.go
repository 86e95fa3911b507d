package trace_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keymount/keymount/pkg/trace"
	"github.com/keymount/keymount/pkg/trace/tracetest"
)

// start is trace.Start with these variables, until the end of the test.
func start(t *testing.T, variables map[string]string) (stop func()) {
	t.Helper()
	for name, value := range variables {
		t.Setenv(name, value) // where the SDK looks
	}
	stop, err := trace.Start(t.Context(), trace.Process{Name: "test", Version: "v1", Environment: func(name string) string { return variables[name] }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	return stop
}

// call makes a span that calls a server by gRPC, which asks a store by HTTP.
func call(t *testing.T) (id string) {
	t.Helper()
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Traceparent") != "" {
			t.Error("the store is told of the trace")
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer store.Close()
	client := &http.Client{Transport: trace.Transport(http.DefaultTransport)}
	server := grpc.NewServer(trace.Server())
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "test.T", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Mount",
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, store.URL+"/v1/a-path?a=query", http.NoBody)
			if err != nil {
				return nil, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return nil, err
			}
			return new(emptypb.Empty), errors.Join(resp.Body.Close(), decode(new(emptypb.Empty)))
		},
	}}}, nil)
	socket := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	defer func() { server.GracefulStop(); <-served }()
	conn, err := grpc.NewClient("unix:"+socket, trace.Client(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, end := trace.Span(trace.Begin(t.Context()), "outermost")
	err = conn.Invoke(ctx, "/test.T/Mount", new(emptypb.Empty), new(emptypb.Empty))
	end(errors.New("as a test"))
	if err != nil {
		t.Error(err)
	}
	client.CloseIdleConnections()
	return trace.ID(ctx)
}

func TestSpansOfACallAreOneTrace(t *testing.T) {
	c := tracetest.New(t, "127.0.0.1")
	for _, variables := range []map[string]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT": c.HTTP},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": c.HTTP + "/v1/traces", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": c.GRPC, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": c.GRPC, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
	} {
		stop := start(t, variables)
		id := call(t)
		stop()
		want := "outermost\n  test.T/Mount\n    test.T/Mount\n      GET 127.0.0.1\n"
		if got := c.Tree(id); got != want {
			t.Errorf("with %v the trace is\n%swant\n%s", variables, got, want)
		}
		for name := range variables {
			t.Setenv(name, "")
		}
	}
	for _, s := range c.Spans() {
		switch {
		case s.Process != "test":
			t.Errorf("span %q is of the process %q", s.Name, s.Process)
		case s.Name == "outermost" && s.Error != "error: as a test":
			t.Errorf("the outermost span has the error %q", s.Error)
		case s.Name == "GET 127.0.0.1" && s.Attributes["http.response.status_code"] != "403":
			t.Errorf("the request has the attributes %v", s.Attributes)
		}
	}
	for _, word := range []string{"a-path", "query"} {
		if strings.Contains(string(c.Raw()), word) {
			t.Errorf("the spans tell %q of a request", word)
		}
	}
}

func TestWithoutAnEndpointCallsHaveAnIDAndNothingIsSent(t *testing.T) {
	c := tracetest.New(t, "127.0.0.1")
	for _, variables := range []map[string]string{
		nil,
		{"OTEL_EXPORTER_OTLP_ENDPOINT": c.HTTP, "OTEL_SDK_DISABLED": "true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": c.HTTP, "OTEL_TRACES_EXPORTER": "none"},
	} {
		stop := start(t, variables)
		if id := call(t); len(id) != 32 {
			t.Errorf("with %v the ID is %q", variables, id)
		}
		stop()
	}
	if sent := c.Spans(); len(sent) > 0 {
		t.Errorf("%d spans were sent", len(sent))
	}
}

func TestAProtocolThatNobodySpeaksIsAnError(t *testing.T) {
	variables := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
	_, err := trace.Start(t.Context(), trace.Process{Environment: func(name string) string { return variables[name] }})
	if err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("Start = %v", err)
	}
}

func TestWithoutAStartThereIsNoID(t *testing.T) {
	ctx, end := trace.Span(t.Context(), "a span")
	end(nil)
	if id := trace.ID(ctx); id != "" {
		t.Errorf("ID = %q", id)
	}
}
