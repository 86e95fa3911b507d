package e2e

import (
	"testing"

	"github.com/keymount/keymount/test/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }
