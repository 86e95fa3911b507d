package driver_test

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/audit"
	"github.com/keymount/keymount/pkg/driver"
)

// written returns what the audit log says.
func written(t *testing.T, path string) (events []audit.Event) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(bytes.NewReader(text), func(e audit.Event) error {
		events = append(events, e)
		return nil
	}); err != nil {
		t.Error(err)
	}
	return events
}

func TestWhoIsGivenWhatIsWrittenDown(t *testing.T) {
	var path string
	r := newRig(t, func(c *driver.Config) {
		path = c.StateDir + "-audit.jsonl"
		c.AuditLog = path
	})
	r.mustPublish("v1")
	r.mustPublish("v2")
	req := r.request("v3")
	req.VolumeContext["secretProviderClass"] = "none"
	if err := r.send(req); err == nil {
		t.Error("a volume without its class is published")
	}
	if err := r.unpublish("v1"); err != nil {
		t.Fatal(err)
	}
	said := map[string][]string{}
	events := written(t, path)
	fetched := map[string]audit.Event{} // the first with files, by volume
	for _, e := range events {
		if e.Event != audit.Fetch && e.Event != audit.Refresh { // which come at any time, as the store tells of changes
			said[e.Volume] = append(said[e.Volume], string(e.Event)+" "+string(e.Decision))
		}
		if e.Event == audit.Fetch && len(e.Files) > 0 && fetched[e.Volume].Volume == "" {
			fetched[e.Volume] = e
		}
	}
	want := map[string][]string{"": {"start allow"}, "v1": {"publish allow", "unpublish allow"}, "v2": {"publish allow"}, "v3": {"publish refuse"}}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	first, second := fetched["v1"], fetched["v2"]
	if first.Volume != "v1" || first.Source != audit.Store || len(first.Files) != 1 || first.Files[0].Path != "password" || first.Provider != "fake" || first.Class != "ns/c" || first.Node != "n" {
		t.Errorf("event %+v", first)
	}
	if len(second.Files) != 1 || second.Files[0].Fingerprint != first.Files[0].Fingerprint {
		t.Errorf("one secret has two fingerprints: %+v", second)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), "first") {
		t.Errorf("the log shows a secret, or %v", err)
	}
}

// listenToAudit is whom the driver tells what it does, until leave.
func (r *rig) listenToAudit() (leave func()) {
	r.t.Helper()
	listener, err := net.Listen("unix", r.path("audit.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conns <- conn
		for lines := bufio.NewScanner(conn); lines.Scan(); {
		}
	}()
	r.config.AuditLog = "unix://" + r.path("audit.sock")
	return func() {
		conn := <-conns // the driver may be about to connect
		_ = listener.Close()
		_ = conn.Close()
	}
}

func TestNoSecretIsGivenOutWhileItCannotBeWrittenDown(t *testing.T) {
	r := prepareRig(t)
	leave := r.listenToAudit()
	r.start()
	r.mustPublish("v1")
	leave()
	err := r.publish("v2")
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the audit log cannot be written") {
		t.Errorf("publish = %v", err)
	}
	r.becomes("v1", "first")
}

func TestStandardOutputIsNotRequired(t *testing.T) {
	r := newRig(t, func(c *driver.Config) { c.AuditLog = "-" })
	r.mustPublish("v1")
	r.becomes("v1", "first")
}
