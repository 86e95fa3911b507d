package e2e

import (
	"os"
	"testing"

	"github.com/keymount/keymount/pkg/trace/tracetest"
)

// A scenario is one thing that the product promises.
type scenario struct {
	name  string
	local bool // it stops servers of the node, or looks at its disks
	run   func(*testing.T, *suite)
}

// TestEndToEnd runs all scenarios, the disruptive ones last.
func TestEndToEnd(t *testing.T) {
	s := newSuite(t)
	s.prepare(t)
	for _, scenarios := range [][]scenario{
		publishing, rotating, syncing, rights, outages, stores, clouds, scaling, disruptions, migrations, confinement, secrecy,
	} {
		for _, c := range scenarios {
			if c.local && !s.Local {
				remark(t, "NOT RUN on a cluster that is not of our making: %s", c.name)
				continue
			}
			t.Run(c.name, func(t *testing.T) { c.run(t, s) })
			s.keepLogs(t)
		}
	}
}

// prepare installs what all scenarios need.
func (s *suite) prepare(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(storeDir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.describe(mockNamespace), s.describe(system))
		}
	})
	s.startMock(t)
	if s.Local {
		node, _ := s.addresses(t)
		s.traces = tracetest.New(t, node)
		values = append(values, "driver.env[0].name=OTEL_EXPORTER_OTLP_ENDPOINT", "driver.env[0].value="+s.traces.HTTP)
	}
	s.install(t)
}
