package driver_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/keymount/keymount/pkg/audit"
	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/pkg/trace"
	"github.com/keymount/keymount/pkg/trace/tracetest"
)

func TestACallIsOneTraceFromKubeletToTheProvider(t *testing.T) {
	canary := rand.Text()
	c := tracetest.New(t, "127.0.0.1")
	variables := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.GRPC, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
	for name, value := range variables {
		t.Setenv(name, value)
	}
	stop, err := trace.Start(t.Context(), trace.Process{Name: "both", Environment: func(name string) string { return variables[name] }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	var path string
	r := newRig(t, func(c *driver.Config) {
		path = c.StateDir + "-audit.jsonl"
		c.AuditLog, c.Rotation = path, false
	})
	r.store.Put("password", []byte(canary))
	req := r.request("v1")
	req.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = `{"aud":{"token":"` + canary + `","expirationTimestamp":"2130-01-02T03:04:05Z"}}`
	if err := r.send(req); err != nil {
		t.Fatal(err)
	}
	if err := r.unpublish("v1"); err != nil {
		t.Fatal(err)
	}
	r.stop() // its last span has ended then
	stop()
	traces := map[audit.Kind]string{}
	for _, e := range written(t, path) {
		traces[e.Event] = c.Tree(e.Trace)
	}
	const mount = "v1alpha1.CSIDriverProvider/Mount"
	published := "csi.v1.Node/NodePublishVolume\n  publish\n    fetch\n      " + mount + "\n        " + mount + "\n"
	for event, want := range map[audit.Kind]string{
		audit.Fetch: published, audit.Publish: published, audit.Unpublish: "csi.v1.Node/NodeUnpublishVolume\n  unpublish\n",
	} {
		if traces[event] != want {
			t.Errorf("the trace of the event %s is\n%swant\n%s", event, traces[event], want)
		}
	}
	for _, s := range c.Spans() {
		if s.Name == "publish" && (s.Attributes["keymount.class"] != "ns/c" || s.Attributes["keymount.volume"] != "v1" || s.Attributes["k8s.namespace.name"] != "ns") {
			t.Errorf("the span has the attributes %v", s.Attributes)
		}
	}
	if bytes.Contains(c.Raw(), []byte(canary)) {
		t.Error("a span has a secret")
	}
}
