package soak

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keymount/keymount/test/stores/issuer"
	"github.com/keymount/keymount/test/stores/openbao"
	"github.com/keymount/keymount/test/stores/postgres"
)

// A node is a machine with one driver, one provider and some volumes, and the
// server and the database that they use.
type node struct {
	t        *testing.T
	dir      string
	bao      *openbao.Server
	issuer   *issuer.Issuer
	database *postgres.Server
	conn     *grpc.ClientConn
	log      *os.File // of all drivers and providers
	driver   *exec.Cmd
	provider *exec.Cmd
	slots    [volumes]*slot

	kills, publishes, logins, changes atomic.Int64

	mu      sync.Mutex
	secrets map[string]bool // that no log may have
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{
		t: t, dir: t.TempDir(), bao: openbao.New(t, nil), issuer: issuer.New(t), database: postgres.New(t),
		secrets: make(map[string]bool),
	}
	n.forbid(n.database.Password())
	n.prepareServer()
	n.writeClasses()
	n.build()
	for i := range n.slots {
		n.slots[i] = &slot{node: n, id: fmt.Sprint("v", i), class: classes[i%len(classes)]}
	}
	var err error
	if n.log, err = os.Create(n.path("log")); err != nil {
		t.Fatal(err)
	}
	soon := backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond}
	n.conn, err = grpc.NewClient("unix://"+n.path("csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.stop()
		_, _ = n.conn.Close(), n.log.Close()
	})
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) forbid(secret string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.secrets[secret] = true
}

// classes are the roles of the database, of the server and of the cluster:
// credentials and tokens that live long if somebody renews them, and others
// whose end comes soon all the same.
var classes = []string{"long", "short"}

func (n *node) prepareServer() {
	t, seconds := n.t, fmt.Sprint(int(lease.Seconds()), "s")
	n.bao.EnableKubernetes(t, "kubernetes", n.issuer)
	n.bao.MountDatabase(t, "db", n.database)
	n.bao.DatabaseRole(t, "db", "long", seconds, "2h")
	n.bao.DatabaseRole(t, "db", "short", seconds, longest.String())
	for class, ttl := range map[string]string{"long": "1h", "short": seconds} {
		n.bao.Policy(t, class, map[string]string{"db/creds/" + class: "read"})
		n.bao.Write(t, "auth/kubernetes/role/"+class, openbao.Fields{
			"bound_service_account_names": class, "bound_service_account_namespaces": "shop", "audience": "openbao",
			"token_policies": class, "token_ttl": ttl,
		})
	}
}

func (n *node) writeClasses() {
	n.t.Helper()
	if err := os.Mkdir(n.path("classes"), 0o755); err != nil {
		n.t.Fatal(err)
	}
	for _, class := range classes {
		manifest := fmt.Sprintf(`apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: %[1]s, namespace: shop}
spec:
  provider: openbao
  parameters:
    rotationInterval: 2s
    baoAddress: %[2]s
    roleName: %[1]s
    objects: |
      - {objectName: username, secretPath: db/creds/%[1]s, secretKey: username}
      - {objectName: password, secretPath: db/creds/%[1]s, secretKey: password}
`, class, n.bao.Address())
		if err := os.WriteFile(n.path("classes/"+class+".yaml"), []byte(manifest), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) build() {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), "go", "build", "-buildvcs=false", "-o", n.dir+"/", "./cmd/keymount-driver", "./cmd/keymount-provider")
	cmd.Dir = "../../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("build: %v\n%s", err, out)
	}
}

// spawn starts a program with a log and without any environment.
func (n *node) spawn(program string, args ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command(n.path(program), append(args, "-v=10")...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	return cmd
}

func (n *node) startProvider() {
	n.t.Helper()
	n.provider = n.spawn("keymount-provider", "--providers=openbao", "--socket-dir="+n.path("providers"), "--openbao-tls-ca-cert="+n.bao.CAFile())
}

// startDriver starts the driver and waits until it answers.
func (n *node) startDriver() {
	n.t.Helper()
	n.driver = n.spawn("keymount-driver", "--nodeid=n", "--kubelet-root=", "--endpoint=unix://"+n.path("csi.sock"), "--metrics-addr=",
		"--class-dir="+n.path("classes"), "--state-dir="+n.path("state"), "--provider-volume="+n.path("providers"), "--additional-provider-volume-paths=")
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	err := errors.New("it was not asked")
	for err != nil && ctx.Err() == nil { // the connection may still be that to the driver before
		_, err = csi.NewIdentityClient(n.conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
	}
	if err != nil {
		n.t.Fatalf("the driver does not answer: %v\n%s", err, n.logged())
	}
}

// logged returns the end of the log.
func (n *node) logged() string {
	text, err := os.ReadFile(n.log.Name())
	if err != nil {
		n.t.Error(err)
	}
	return string(text[max(0, len(text)-20_000):])
}

func end(cmd *exec.Cmd, signal syscall.Signal) {
	if cmd != nil && cmd.ProcessState == nil {
		_ = cmd.Process.Signal(signal)
		_ = cmd.Wait()
	}
}

func (n *node) stop() {
	end(n.driver, syscall.SIGTERM)
	end(n.provider, syscall.SIGTERM)
}

// churn lets volumes come and go until the end, and kills the driver and the
// provider in turn.
func (n *node) churn(until time.Time) {
	ctx, cancel := context.WithDeadline(n.t.Context(), until)
	defer cancel()
	var busy sync.WaitGroup
	for _, s := range n.slots {
		busy.Go(func() { s.live(ctx) })
	}
	for pause(ctx, time.Duration(5000+mathrand.IntN(5000))*time.Millisecond) {
		n.kills.Add(1)
		if n.kills.Load()%2 == 0 {
			end(n.driver, syscall.SIGKILL)
			n.startDriver()
		} else {
			end(n.provider, syscall.SIGKILL)
			n.startProvider()
		}
	}
	busy.Wait()
}

// pause waits, and reports whether there is more to do.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// hold publishes all volumes, as kubelet does again and again, until all are.
func (n *node) hold() {
	n.t.Helper()
	n.each(func(ctx context.Context, s *slot) { s.begin(ctx) })
}

// release unpublishes all volumes.
func (n *node) release() {
	n.t.Helper()
	n.each(func(ctx context.Context, s *slot) { s.end(ctx) })
}

func (n *node) each(do func(context.Context, *slot)) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	var busy sync.WaitGroup
	for _, s := range n.slots {
		busy.Go(func() { do(ctx, s) })
	}
	busy.Wait()
	if ctx.Err() != nil {
		n.t.Fatalf("a call did not succeed in %v\n%s", patience, n.logged())
	}
}
