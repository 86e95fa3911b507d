// Package trace follows a call from kubelet to the store: as spans of
// OpenTelemetry, which are sent where the environment says, and as the trace's
// ID, which logs have in any case. Spans name pods, volumes, classes, providers
// and hosts; they never have a path of a store, a header, or content.
package trace

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	api "go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"
)

// A Process is who makes spans.
type Process struct {
	Name, Version string
	// Environment looks variables up; os.Getenv does.
	Environment func(name string) string
}

// Start makes this process send spans if the environment names an endpoint:
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, with the other variables of OpenTelemetry's
// SDK (headers, certificate, sampler, attributes of the resource, protocol:
// grpc or http/protobuf, which is the default). A process calls it once, before
// it makes servers and clients, and stop at its end, which takes a moment to
// send what is left.
func Start(ctx context.Context, p Process) (stop func(), err error) {
	if !p.exports() {
		return func() {}, nil
	}
	exporter, err := p.exporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces to where OTEL_EXPORTER_OTLP_ENDPOINT says: %w", err)
	}
	own := resource.NewSchemaless(semconv.ServiceName(p.Name), semconv.ServiceVersion(p.Version))
	of, err := resource.New(ctx, resource.WithFromEnv())
	if err == nil {
		own, err = resource.Merge(own, of)
	}
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(own))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	exporting.Store(true)
	return func() {
		exporting.Store(false)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			klog.ErrorS(err, "Last traces were not sent")
		}
	}, nil
}

// patience is how long sending the last spans may take.
const patience = 3 * time.Second

// exports reports whether somebody wants spans.
func (p Process) exports() bool {
	endpoint := p.Environment("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") + p.Environment("OTEL_EXPORTER_OTLP_ENDPOINT")
	return endpoint != "" && !strings.EqualFold(p.Environment("OTEL_SDK_DISABLED"), "true") && p.Environment("OTEL_TRACES_EXPORTER") != "none"
}

func (p Process) exporter(ctx context.Context) (sdk.SpanExporter, error) {
	protocol := p.Environment("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = p.Environment("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "grpc":
		return otlptracegrpc.New(ctx)
	case "", "http/protobuf":
		return otlptracehttp.New(ctx)
	}
	return nil, errors.New("the protocol is neither grpc nor http/protobuf")
}

// tracer is that of the process, whenever it starts.
func tracer() api.Tracer { return otel.Tracer("github.com/keymount/keymount") }

// Span begins a part of what ctx belongs to. It has ended when end is called,
// with the error that it ended with; the text of an error is of the kind that
// events and logs have.
func Span(ctx context.Context, name string, attributes ...attribute.KeyValue) (_ context.Context, end func(error)) {
	ctx, span := tracer().Start(ctx, name, api.WithAttributes(attributes...))
	return ctx, func(err error) { finish(span, err) }
}

func finish(span api.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// exporting says whether spans are sent. Nothing is measured that nobody sees.
var exporting atomic.Bool

// Begin gives a call an ID, if it has none: that of a trace, of which nothing is
// sent.
func Begin(ctx context.Context) context.Context {
	if exporting.Load() || api.SpanContextFromContext(ctx).IsValid() {
		return ctx // its span has one, or will
	}
	var trace api.TraceID
	var span api.SpanID
	_, _ = rand.Read(trace[:])
	_, _ = rand.Read(span[:])
	return api.ContextWithSpanContext(ctx, api.NewSpanContext(api.SpanContextConfig{TraceID: trace, SpanID: span}))
}

// ID returns that of the trace which ctx belongs to, in hexadecimal; "" is none.
func ID(ctx context.Context) string {
	if id := api.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		return id.String()
	}
	return ""
}
