package e2e

import (
	"fmt"
	"testing"

	"github.com/keymount/keymount/test/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(reporter{m}) }

// A reporter prints what whoever watches should know, after the tests: what a
// test prints is shown only if it fails.
type reporter struct{ tests cluster.Tests }

// Run implements cluster.Tests.
func (r reporter) Run() int {
	code := r.tests.Run()
	for _, line := range remarks {
		fmt.Println(line)
	}
	return code
}

var remarks []string

func remark(t *testing.T, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	remarks = append(remarks, line)
}
