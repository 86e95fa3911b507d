package soak

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/keymount/keymount/test/stores/postgres"
)

// check logs in to the database with what each volume shows, once a second,
// until the returned function is called.
func (n *node) check() (stop func()) {
	ctx, cancel := context.WithCancel(n.t.Context())
	var busy sync.WaitGroup
	for _, s := range n.slots {
		busy.Go(func() {
			var last account
			for pause(ctx, time.Second) {
				last = n.checkOnce(s, last)
			}
		})
	}
	return func() {
		cancel()
		busy.Wait()
	}
}

// checkOnce is one login, if the volume is published. It cannot end meanwhile.
func (n *node) checkOnce(s *slot, last account) account {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.published {
		return account{}
	}
	a, err := s.account()
	if err != nil {
		n.t.Errorf("volume %s: %v", s.id, err)
		return account{}
	}
	n.forbid(a.password)
	if err := n.database.Login(context.WithoutCancel(n.t.Context()), a.user, a.password); err != nil {
		n.t.Errorf("%s: volume %s of class %s: login as %s: %v (refused: %v)", time.Now().Format(time.TimeOnly), s.id, s.class, a.user, err, postgres.Refused(err))
	}
	n.logins.Add(1)
	if last.user != "" && last != a {
		n.changes.Add(1)
	}
	return a
}

// holdsAll waits until the server has the leases of the volumes and no others.
// Where credentials come to their end, the ones before live for a while.
func (n *node) holdsAll(when string) {
	n.t.Helper()
	held := make(map[string]int)
	for _, s := range n.slots {
		if s.published {
			held[s.class]++
		}
	}
	deadline := time.After(patience)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		wrong := n.surplus(held)
		if wrong == "" {
			n.t.Logf("%s: leases are those of %v", when, held)
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			n.t.Errorf("%s: %s\n%s", when, wrong, n.logged())
			return
		}
	}
}

// surplus says where the leases at the server are not those of the volumes.
func (n *node) surplus(held map[string]int) string {
	for _, class := range classes {
		leases, limit := len(n.bao.Leases(n.t, "db/creds/"+class)), held[class]
		if class == "short" {
			limit = 2 * held[class]
		}
		if leases < held[class] || leases > limit {
			return fmt.Sprintf("%d leases of class %s at the server, and %d volumes", leases, class, held[class])
		}
	}
	return ""
}

// keptSecrets searches the logs for what was secret.
func (n *node) keptSecrets() {
	n.t.Helper()
	text, err := os.ReadFile(n.log.Name())
	if err != nil || len(text) == 0 {
		n.t.Errorf("the log has %d bytes, error %v", len(text), err)
	}
	text = append(text, n.bao.Logged(n.t)...)
	for secret := range n.secrets {
		if bytes.Contains(text, []byte(secret)) {
			n.t.Error("a log shows a secret")
		}
	}
}

func (n *node) report() {
	n.t.Helper()
	span := "in " + duration().String()
	measure("soak-kills", n.kills.Load(), span)
	measure("soak-volumes", n.publishes.Load(), span)
	measure("soak-database-logins", n.logins.Load(), span)
	measure("soak-new-credentials-seen", n.changes.Load(), span)
	if n.kills.Load() < 4 || n.publishes.Load() < 2*volumes || n.changes.Load() < volumes {
		n.t.Error("the soak did not meet kills, volumes that come and go, and new credentials")
	}
}
