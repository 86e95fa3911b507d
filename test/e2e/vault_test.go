package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keymount/keymount/test/stores/openbao"
	"github.com/keymount/keymount/test/stores/postgres"
)

var stores = []scenario{
	{"the example of Vault and OpenBao runs as its README says, with a real server and a real database", true, vaultExample},
}

const (
	credentials = "database/creds/shop" // in the example
	leaseTime   = 45 * time.Second      // of credentials, instead of the example's hour
	soon        = 10 * time.Second      // bounds what the server does after a pod has gone
)

// vaultExample runs the steps in their order, up to one that fails.
func vaultExample(t *testing.T, s *suite) {
	s.haveExampleImage(t)
	w := newVaultWorld(t, s)
	defer s.install(t)
	defer w.clear(t)
	s.keepLogs(t)
	w.run(t, "Prepare the server")
	w.run(t, "Run it")
	s.awaitDriver(t)
	for _, step := range []struct {
		name string
		run  func(*vaultWorld, *testing.T)
	}{
		{"pods get what is stored, a certificate, and a user of the database", (*vaultWorld).gives},
		{"a pod of another service account waits, and says why", (*vaultWorld).refuses},
		{"users end with their pods, and a change reaches a running pod", (*vaultWorld).follows},
		{"users outlive driver and provider, and there are as many leases as volumes", (*vaultWorld).persists},
		{"neither the API server nor OpenBao has written down a secret", (*vaultWorld).keepsSecrets},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(w, t) }) {
			return
		}
	}
	s.measureMemory(t, "vault")
}

func (w *vaultWorld) gives(t *testing.T) {
	w.bash(t, "kubectl apply -f examples/vault/jwt.yaml")
	for _, pod := range []string{"static", "database", "pki", "jwt"} {
		w.awaitStart(t, "shop", pod)
	}
	for _, f := range []struct{ pod, path, want string }{
		{"static", "db/user", "shop"}, {"static", "db/password", w.word},
		{"static", "license.txt", w.license}, {"static", "session.key", w.session}, {"jwt", "db/password", w.word},
	} {
		w.sees(t, "shop", f.pod, "/run/secrets/shop/"+f.path, f.want)
	}
	certificate, key := w.file(t, "pki", "tls.crt"), w.file(t, "pki", "tls.key")
	w.learnt = append(w.learnt, strings.Split(key, "\n")[1])
	if pair, err := tls.X509KeyPair([]byte(certificate), []byte(key)); err != nil || pair.Leaf.VerifyHostname("web.shop.example") != nil {
		t.Errorf("the certificate is not that of web.shop.example and its key: %v", err)
	}
	if err := w.login(t.Context(), w.account(t, "database")); err != nil {
		t.Errorf("the user of the pod cannot log in: %v", err)
	}
	w.haveLeases(t, 1)
}

// file returns a file of a pod of the example.
func (w *vaultWorld) file(t *testing.T, pod, name string) string {
	t.Helper()
	text, err := w.read(t.Context(), "shop", pod, "/run/secrets/shop/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An account is a user of the database.
type account struct{ user, password string }

// account returns the user that a pod has.
func (w *vaultWorld) account(t *testing.T, pod string) account {
	t.Helper()
	a := account{w.file(t, pod, "username"), w.file(t, pod, "password")}
	w.learnt = append(w.learnt, a.password)
	return a
}

func (w *vaultWorld) login(ctx context.Context, a account) error {
	return w.database.Login(ctx, a.user, a.password)
}

// haveLeases waits until the server has so many leases of credentials.
func (w *vaultWorld) haveLeases(t *testing.T, want int) (leases []string) {
	t.Helper()
	w.within(t, soon, fmt.Sprintf("there are %d leases", want), func(context.Context) error {
		if leases = w.bao.Leases(t, credentials); len(leases) != want {
			return fmt.Errorf("there are %d", len(leases))
		}
		return nil
	})
	return leases
}

// ends waits until the database refuses a user whose pod has gone.
func (w *vaultWorld) ends(t *testing.T, a account) {
	t.Helper()
	took := w.within(t, soon, "the database refuses the user", func(ctx context.Context) error {
		if err := w.login(ctx, a); !postgres.Refused(err) {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	measure(t, "user-refused-after-pod", took.Seconds(), "s")
}

// refuses makes a pod of "static" that the role of the server is not for.
func (w *vaultWorld) refuses(t *testing.T) {
	_, said, found := strings.Cut(w.readme, "event that says\n\n    ")
	said, _, _ = strings.Cut(said, "\n")
	if !found {
		t.Fatal("README.md shows no event")
	}
	text, err := os.ReadFile("../../examples/vault/static.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, pod, _ := strings.Cut(string(text), "\n---\n")
	w.apply(t, "shop", strings.NewReplacer("  name: static\n", "  name: stranger\n", "serviceAccountName: web", "serviceAccountName: default").Replace(pod))
	w.event(t, "shop", "stranger", "PublishFailed", regexp.QuoteMeta(said))
	w.event(t, "shop", "stranger", "FailedMount", regexp.QuoteMeta(said))
	is, err := w.api.CoreV1().Pods("shop").Get(t.Context(), "stranger", metaGet)
	if err != nil || len(is.Status.ContainerStatuses) == 0 {
		t.Fatal(is.Status, err)
	}
	if waiting := is.Status.ContainerStatuses[0].State.Waiting; waiting == nil || waiting.Reason != "ContainerCreating" {
		t.Errorf("the container is %+v, want it to wait in ContainerCreating", is.Status.ContainerStatuses[0].State)
	}
	w.delete(t, "stranger")
}

func (w *vaultWorld) delete(t *testing.T, pods ...string) {
	t.Helper()
	if _, err := w.kubectl(t.Context(), "", append([]string{"delete", "pod", "-n", "shop", "--grace-period=1"}, pods...)...); err != nil {
		t.Fatal(err)
	}
}

// follows does what README.md does: it deletes the pod "database", and stores
// another password.
func (w *vaultWorld) follows(t *testing.T) {
	a := w.account(t, "database")
	w.run(t, "Look at it")
	w.ends(t, a)
	w.haveLeases(t, 0)
	w.sees(t, "shop", "static", "/run/secrets/shop/db/password", "another-"+w.word)
	if got := w.file(t, "static", "license.txt"); got != w.license {
		t.Error("the pinned version has changed")
	}
}

// persists ends provider and driver while one pod has its user and another one
// comes, and waits until their next processes have renewed the first one's.
func (w *vaultWorld) persists(t *testing.T) {
	w.bash(t, w.prelude+"(cat examples/vault/shop.hcl; echo 'path \"sys/leases/revoke\" { capabilities = [\"update\"] }') | vault policy write shop -")
	w.startDatabase(t, "database")
	early, lease := w.account(t, "database"), w.haveLeases(t, 1)[0]
	stop := w.keepLoggingIn(t, early)
	defer stop()
	w.kill(t, "/keymount-provider")
	w.killDriver(t)
	w.startDatabase(t, "later")
	w.restartDriver(t)
	w.isRenewed(t, lease)
	stop()
	w.haveLeases(t, 2)
	late := w.account(t, "later")
	if w.account(t, "database") != early {
		t.Error("the pod has another user than before, although its lease was renewed")
	}
	w.delete(t, "database", "later")
	w.ends(t, early)
	w.ends(t, late)
	w.haveLeases(t, 0)
}

// isRenewed waits until the server has renewed a lease.
func (w *vaultWorld) isRenewed(t *testing.T, lease string) {
	t.Helper()
	w.within(t, leaseTime, "the lease is renewed", func(ctx context.Context) error {
		answer, err := w.bao.Do(ctx, "PUT", "sys/leases/lookup", openbao.Fields{"lease_id": lease})
		switch {
		case err != nil:
			t.Fatalf("the lease of a pod that runs has ended: %v", err)
		case answer.Data["last_renewal"] == nil:
			return fmt.Errorf("it has %v s to live", answer.Data["ttl"])
		}
		return nil
	})
}

// startDatabase makes a pod of the class "database" that has the name.
func (w *vaultWorld) startDatabase(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile("../../examples/vault/database.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, pod, _ := strings.Cut(string(text), "\n---\n")
	w.apply(t, "shop", strings.Replace(pod, "  name: database\n", "  name: "+name+"\n", 1))
	w.awaitStart(t, "shop", name)
}

// keepLoggingIn logs in again and again until stop is called, which fails the
// test if any login did.
func (w *vaultWorld) keepLoggingIn(t *testing.T, a account) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	var logins int
	var failures []error
	busy.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			logins++
			if err := w.login(context.WithoutCancel(ctx), a); err != nil {
				failures = append(failures, err)
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		busy.Wait()
		if len(failures) > 0 {
			t.Errorf("%d of %d logins of the pod's user failed: %v", len(failures), logins, failures[0])
		}
	})
}

// keepsSecrets searches all that has been logged. etcd is searched when the
// namespace goes.
func (w *vaultWorld) keepsSecrets(t *testing.T) {
	w.searchPods(t)
	w.searchLogs(t)
	if w.leaks([]byte(w.bao.Logged(t)), []byte(token)) {
		t.Error("OpenBao has logged a secret")
	}
}
