package audit

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keymount/keymount/pkg/provider"
)

// Programs that read the log rely on docs/audit.schema.json.
func TestEveryLineIsAsTheSchemaSays(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../docs/audit.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	sink := &paper{}
	l := newLog(t, sink, true)
	s := &store{bundle: bundle()}
	p := l.Middleware()("vault", Asked("vault", s))
	for _, err := range []error{nil, provider.ErrDenied, provider.ErrUnavailable, errors.New(strings.Repeat("é", 2000))} {
		s.err = err
		_, _ = p.Fetch(t.Context(), &provider.Request{Pod: pod, Class: "shop/db"})
	}
	sink.full = true
	_, _ = p.Fetch(t.Context(), &provider.Request{Pod: pod})
	sink.full = false
	if giver, ok := provider.As[provider.Releaser](p); ok {
		_ = giver.Release(t.Context(), provider.Lease{ID: "x"})
	}
	for line := range bytes.Lines(sink.text) {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, bad := range []string{`{}`, `{"seq":1,"time":"2026-01-01T00:00:00Z","node":"n","event":"start","decision":"allow","prev":"` + zeros + `","value":"x"}`} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(bad))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(value) == nil {
			t.Errorf("the schema takes %s", bad)
		}
	}
}
