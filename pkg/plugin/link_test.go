package plugin

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

func TestNothingDialsADeadSocketAfterTheCall(t *testing.T) {
	t.Chdir(t.TempDir()) // a short path for the socket
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: "test.sock", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false)
	_ = lis.Close()
	d := NewDir([]string{"."}, &Options{DialWait: 10 * time.Millisecond})
	defer d.Close()
	p, err := d.Lookup("test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fetch(t.Context(), &provider.Request{}); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %v, want %v", err, provider.ErrUnavailable)
	}
	if len(d.links) != 0 || len(d.spent) != 0 {
		t.Errorf("%d links and %d spent ones remain after a failed call", len(d.links), len(d.spent))
	}
}
