package publish_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

func TestPublishMountsTheWholeBundle(t *testing.T) {
	w := newWorld(t)
	w.store.Put("cert", []byte("pem\n"))
	w.asks(
		providertest.Object{Name: "password"},
		providertest.Object{Name: "cert", File: "tls/server/cert.pem", Mode: 0o400},
	)
	res := w.mustPublish()
	w.mustHold(map[string]string{"password": "first", "tls/server/cert.pem": "pem\n"})
	w.mustBePublished()
	if res.Outcome != publish.Created || len(res.Record.Held.Versions) != 2 || res.Record.Provider != "fake" {
		t.Errorf("result = %+v, want a created volume with two objects", res)
	}
	mustHaveMode(t, filepath.Join(w.target, "password"), 0o644, -1)
	mustHaveMode(t, filepath.Join(w.target, "tls/server/cert.pem"), 0o400, -1)
}

func mustHaveMode(t *testing.T, path string, mode fs.FileMode, group int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != mode {
		t.Errorf("mode of %s = %o, want %o", path, got, mode)
	}
	if got := int64(info.Sys().(*syscall.Stat_t).Gid); group >= 0 && got != group {
		t.Errorf("group of %s = %d, want %d", path, got, group)
	}
}

// otherGroup is a group that new files do not get by themselves. An ordinary
// user has none in its namespace, and may not give files away.
const otherGroup = 4321

func TestTheGroupOfTheVolumeOwnsEveryFileNowAndAfterRotation(t *testing.T) {
	w := newWorld(t)
	w.asks(providertest.Object{Name: "password", File: "db/password"})
	group := int64(otherGroup)
	v := w.volume()
	v.Group = &group
	_, err := w.service.Publish(t.Context(), v)
	if refusal := os.Chown(t.TempDir(), -1, otherGroup); refusal != nil {
		check(t, err, nil) // refused, rather than published without
		w.mustBeGone()
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"first", "second"} {
		w.store.Put("password", []byte(value))
		if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
			t.Fatal(err)
		}
		w.mustHold(map[string]string{"db/password": value})
		mustHaveMode(t, filepath.Join(w.target, "db/password"), 0o640, group)
		mustHaveMode(t, filepath.Join(w.target, "db"), 0o755, group)
		mustHaveMode(t, w.target, 0o755, group)
	}
}

func TestTheAuthorOfTheClassDecides(t *testing.T) {
	for _, c := range []struct {
		name          string
		attributesWin bool
		want          map[string]string // besides those of the class and of kubelet
	}{
		{"the pod sets nothing", false, map[string]string{"address": "class"}},
		{"the pod overrides and extends where the flag says so", true, map[string]string{"address": "pod", "extra": "pod", "providerName": "mock_provider"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.sets("address", "class")
			w.sets("rotationInterval", "1h")
			w.config.AttributesWin = c.attributesWin
			w.service = publish.New(w.config)
			v := w.volume()
			v.Attributes["address"] = "pod"
			v.Attributes["rotationInterval"] = "1s"
			v.Attributes["extra"] = "pod"
			v.Attributes["providerName"] = "mock_provider" // B10 of the upstream driver: it bypassed the provider
			if _, err := w.service.Publish(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"objects": w.class.Parameters["objects"], "secretProviderClass": "db",
				"csi.storage.k8s.io/ephemeral": "true",
			}
			maps.Copy(want, c.want)
			if diff := cmp.Diff(want, w.asked[0].Parameters); diff != "" {
				t.Errorf("parameters that the provider saw (-want +got):\n%s", diff)
			}
			rec, _ := w.volumes.Get("csi-1")
			if wait := time.Until(rec.Due); wait < 5*time.Minute {
				t.Errorf("due in %v: the pod must not set the interval", wait)
			}
		})
	}
}

func TestAClassWithoutParametersIsPublished(t *testing.T) {
	w := newWorld(t)
	w.mu.Lock()
	w.class = &class.Class{Name: w.class.Name, Provider: "plain"}
	w.mu.Unlock()
	files := map[string]string{"a": "1"}
	w.config.Providers = func(string) (provider.Provider, error) { return writesItself{files}, nil }
	w.service = publish.New(w.config)
	w.mustPublish()
	w.mustHold(files)
}

func TestARepublishThatIsNotDueAsksNobody(t *testing.T) {
	w := newWorld(t)
	before := w.mustPublish()
	for range 100 { // as fast as they come
		res := w.mustPublish()
		if res.Outcome != publish.NotDue || !res.Record.Due.Equal(before.Record.Due) {
			t.Fatalf("result = %+v, want not due until %v", res, before.Record.Due)
		}
	}
	if got := w.store.Fetches(); got != 1 {
		t.Errorf("%d fetches for a storm of republishes, want 1", got)
	}
}

func TestARepublishOfAStaleVolumeWaitsForItsBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.mustPublish()
		w.store.Break()
		if _, err := w.service.Refresh(t.Context(), "csi-1"); err == nil {
			t.Fatal("a refresh without a store succeeded")
		}
		fetches := w.store.Fetches()
		for range 100 {
			if res := w.mustPublish(); res.Outcome != publish.NotDue || res.Record.Stale.IsZero() {
				t.Fatalf("result = %+v, want not due and stale", res)
			}
		}
		if got := w.store.Fetches(); got != fetches {
			t.Errorf("%d fetches during the backoff, want none", got-fetches)
		}
		time.Sleep(6 * time.Second)
		_, err := w.publish()
		check(t, err, provider.ErrUnavailable)
	})
}

// B2 of the upstream driver: whatever the interval, it fetched at every call
// of kubelet.
func TestB2TheIntervalIsHonouredWhateverKubeletsCadence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.sets(class.RotationInterval, "1h")
		for range 24 * 48 { // a day of calls every 75 s
			w.mustPublish()
			time.Sleep(75 * time.Second)
		}
		if got := w.store.Fetches(); got < 23 || got > 28 {
			t.Errorf("%d fetches in 24 h at an interval of 1h, want about 25", got)
		}
	})
}

func TestUnpublishForgetsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v := w.volume()
		v.Tokens = provider.Tokens{"vault": {Value: secret.New([]byte("t"))}}
		if _, err := w.service.Publish(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
			t.Fatal(err)
		}
		w.mustPublish() // the same ID, without a token
		if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
			t.Fatal(err)
		}
		if last := w.asked[len(w.asked)-1]; len(last.Tokens) != 0 {
			t.Errorf("the provider got %d tokens of the volume before", len(last.Tokens))
		}
	})
}

func TestRefreshTellsWhatChanged(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	refresh := func() publish.Result {
		t.Helper()
		res, err := w.service.Refresh(t.Context(), "csi-1")
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := refresh(); res.Outcome != publish.Unchanged {
		t.Errorf("result = %+v, want unchanged", res)
	}
	w.store.Put("password", []byte("second"))
	if res := refresh(); res.Outcome != publish.Rotated {
		t.Errorf("result = %+v, want rotated", res)
	}
	w.mustHold(map[string]string{"password": "second"})
	if res := refresh(); res.Outcome != publish.Unchanged {
		t.Errorf("result = %+v, want unchanged", res)
	}
}

func TestAChangedClassIsFetchedAnew(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	w.asks(providertest.Object{Name: "password", Mode: 0o400}) // same version, other mode
	if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
		t.Fatal(err)
	}
	mustHaveMode(t, filepath.Join(w.target, "password"), 0o400, -1)
	if held := w.asked[1].Held; len(held.Versions) != 0 {
		t.Errorf("the provider was told that the volume holds %v, of another class", held.Versions)
	}
	w.mu.Lock()
	other := *w.class
	other.Provider, other.Revision = "another", "another"
	w.class = &other
	w.mu.Unlock()
	if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
		t.Fatal(err)
	}
	if held := w.asked[2].Held; len(held.Versions) != 0 || !held.Lease.IsZero() {
		t.Errorf("the provider was told that the volume holds %+v, of another provider", held)
	}
	w.store.Put("user", []byte("u"))
	w.asks(providertest.Object{Name: "user"})
	if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
		t.Fatal(err)
	}
	w.mustHold(map[string]string{"user": "u"})
}

func TestTokensComeFromTheLastPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		token := func(text string, life time.Duration) provider.Tokens {
			return provider.Tokens{"vault": {Value: secret.New([]byte(text)), Expires: time.Now().Add(life)}}
		}
		publishWith := func(tokens provider.Tokens) {
			t.Helper()
			v := w.volume()
			v.Tokens = tokens
			v.Credentials = map[string]secret.Value{"id": secret.New([]byte("c"))}
			if _, err := w.service.Publish(t.Context(), v); err != nil {
				t.Fatal(err)
			}
		}
		lastSeen := func() string {
			t.Helper()
			if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
				t.Fatal(err)
			}
			last := w.asked[len(w.asked)-1]
			if got := string(last.Credentials["id"].Reveal()); got != "c" {
				t.Errorf("credentials = %q, want those of the publish", got)
			}
			return string(last.Tokens["vault"].Value.Reveal())
		}
		publishWith(token("t1", 10*time.Minute))
		if got := lastSeen(); got != "t1" {
			t.Errorf("token = %q, want t1", got)
		}
		publishWith(token("t2", 20*time.Minute)) // not due, and remembered
		if got := lastSeen(); got != "t2" {
			t.Errorf("token = %q, want t2", got)
		}
		time.Sleep(20 * time.Minute)
		if got := lastSeen(); got != "" {
			t.Errorf("token = %q, want none: it has expired", got)
		}
	})
}

func TestAfterARestart(t *testing.T) {
	restart := func(w *world) {
		w.service.Close()
		w.service = publish.New(w.config)
	}
	t.Run("a volume that needs no token is refreshed at once", func(t *testing.T) {
		w := newWorld(t)
		w.mustPublish()
		restart(w)
		w.store.Put("password", []byte("second"))
		if res, err := w.service.Refresh(t.Context(), "csi-1"); err != nil || res.Outcome != publish.Rotated {
			t.Fatalf("refresh = %+v, %v", res, err)
		}
		w.mustHold(map[string]string{"password": "second"})
	})
	t.Run("a volume that needs a token waits for kubelet to bring it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			v := w.volume()
			v.Tokens = provider.Tokens{"vault": {Value: secret.New([]byte("t"))}}
			if _, err := w.service.Publish(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			restart(w)
			res, err := w.service.Refresh(t.Context(), "csi-1")
			if err != nil || res.Outcome != publish.NotDue || !res.Record.Stale.IsZero() {
				t.Fatalf("refresh without a token = %+v, %v; want not due", res, err)
			}
			if wait := time.Until(res.Record.Due); wait != 3*time.Minute {
				t.Errorf("due in %v, want 3m", wait)
			}
			w.store.Put("password", []byte("second"))
			time.Sleep(75 * time.Second)
			if res, err := w.service.Publish(t.Context(), v); err != nil || res.Outcome != publish.Rotated {
				t.Fatalf("republish with the token = %+v, %v; want rotated", res, err)
			}
			if res, err := w.service.Publish(t.Context(), v); err != nil || res.Outcome != publish.NotDue {
				t.Fatalf("next republish = %+v, %v; want not due", res, err)
			}
		})
	})
	t.Run("and is tried without it when kubelet never comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			v := w.volume()
			v.Tokens = provider.Tokens{"vault": {Value: secret.New([]byte("t"))}}
			if _, err := w.service.Publish(t.Context(), v); err != nil {
				t.Fatal(err)
			}
			restart(w)
			time.Sleep(3 * time.Minute)
			if res, err := w.service.Refresh(t.Context(), "csi-1"); err != nil || res.Outcome != publish.Unchanged {
				t.Fatalf("refresh = %+v, %v", res, err)
			}
		})
	})
}

func TestAVolumeOfAnEarlierDriverIsTakenOver(t *testing.T) {
	prepare := func(t *testing.T) (w *world, mount uint64) {
		w = newWorld(t)
		mount, _, err := w.mounts.Mount(w.target, w.config.Limits)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := atomicdir.Write(w.target, []atomicdir.File{{Path: "old", Mode: 0o644, Data: []byte("x")}}, nil); err != nil {
			t.Fatal(err)
		}
		return w, mount
	}
	t.Run("with its mount, so that a running pod sees the rotation", func(t *testing.T) {
		w, mount := prepare(t)
		if res := w.mustPublish(); res.Record.Mount != mount {
			t.Errorf("mount = %d, want the one that was there, %d", res.Record.Mount, mount)
		}
		w.mustHold(map[string]string{"password": "first"})
	})
	t.Run("and kept, with an error, when the fetch fails", func(t *testing.T) {
		w, _ := prepare(t)
		w.breaks(stepFetch, provider.ErrUnavailable)
		_, err := w.publish()
		check(t, err, provider.ErrUnavailable)
		w.mustHold(map[string]string{"old": "x"})
	})
}

func TestAVolumeIsPublishedOnceAndAsOne(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(v *volume.Volume)
	}{
		{"at another target", func(v *volume.Volume) { v.Target += "2" }},
		{"of another class", func(v *volume.Volume) { v.Class.Name = "other" }},
		{"for another pod", func(v *volume.Volume) { v.Pod.UID = "other" }},
		{"under another ID at the same target", func(v *volume.Volume) { v.ID = "csi-2" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.mustPublish()
			v := w.volume()
			c.change(&v)
			_, err := w.service.Publish(t.Context(), v)
			check(t, err, publish.ErrConflict)
			w.mustHold(map[string]string{"password": "first"})
			w.mustBePublished()
		})
	}
}

func TestRefreshNeverMounts(t *testing.T) {
	w := newWorld(t)
	if _, err := w.service.Refresh(t.Context(), "csi-1"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("refresh of an unknown volume = %v, want ErrNotFound", err)
	}
	w.mustPublish()
	if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Refresh(t.Context(), "csi-1"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("refresh of an unpublished volume = %v, want ErrNotFound", err)
	}
	w.mustBeGone()
}

func TestUnpublishIsIdempotent(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
			t.Fatalf("unpublish of what was never published: %v", err)
		}
	}
	w.mustPublish()
	for range 2 {
		if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
			t.Fatal(err)
		}
		w.mustBeGone()
	}
}

func TestUnpublishDoesNotWaitForAProviderThatHangs(t *testing.T) {
	for call, published := range map[string]bool{"first publish": false, "refresh": true} {
		t.Run(call, func(t *testing.T) {
			w := newWorld(t)
			if published {
				w.mustPublish()
				w.makeDue()
			}
			hanging := w.store.Hang()
			result := make(chan error, 1)
			go func() {
				_, err := w.publish()
				result <- err
			}()
			<-hanging
			if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
				t.Fatal(err)
			}
			w.mustBeGone()
			check(t, <-result, publish.ErrUnpublished)
		})
	}
}

func TestConcurrentPublishesOfOneVolumeFetchOnce(t *testing.T) {
	w := newWorld(t)
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			if _, err := w.publish(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got := w.store.Fetches(); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
	w.mustHold(map[string]string{"password": "first"})
}

func TestALeaseLivesAsLongAsItsVolume(t *testing.T) {
	w := newWorld(t)
	w.asks()
	w.sets(providertest.ParameterLease, "role")
	w.mustPublish()
	credentials := w.files()
	for range 3 {
		if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
			t.Fatal(err)
		}
	}
	w.mustHold(credentials)
	if got := w.store.Leases(); got != 1 {
		t.Errorf("%d leases while published, want 1", got)
	}
	if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
		t.Fatal(err)
	}
	w.service.Close()
	if got := w.store.Leases(); got != 0 {
		t.Errorf("%d leases after unpublish, want 0", got)
	}
}

func TestALeaseOfAVolumeThatIsNotPublishedIsGivenBack(t *testing.T) {
	for name, step := range map[string]string{"because it cannot be written": stepOpen, "because it cannot be remembered": stepPut} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.asks()
			w.sets(providertest.ParameterLease, "role")
			w.breaks(step, errFault)
			_, err := w.publish()
			check(t, err, errFault)
			w.service.Close()
			if got := w.store.Leases(); got != 0 {
				t.Errorf("%d leases after a failed publish, want 0", got)
			}
		})
	}
	t.Run("because the reply is invalid", func(t *testing.T) {
		w := newWorld(t)
		w.asks()
		w.sets(providertest.ParameterLease, "role")
		w.breaks(stepReply, errNoVersions)
		_, err := w.publish()
		check(t, err, nil)
		w.service.Close()
		if got := w.store.Leases(); got != 0 {
			t.Errorf("%d leases after a failed publish, want 0", got)
		}
	})
	t.Run("because its mount is gone", func(t *testing.T) {
		w := newWorld(t)
		w.asks()
		w.sets(providertest.ParameterLease, "role")
		w.mustPublish()
		if err := unix.Unmount(w.target, 0); err != nil {
			t.Fatal(err)
		}
		w.mustPublish()
		w.service.Close()
		if got := w.store.Leases(); got != 1 {
			t.Errorf("%d leases, want that of the new mount only", got)
		}
	})
}

// writesItself is a provider of the old kind, which writes into the target.
type writesItself struct{ files map[string]string }

func (p writesItself) Fetch(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
	versions := provider.Versions{"object": "v"}
	for name, content := range p.files {
		versions[name] = content
		if err := os.WriteFile(filepath.Join(req.Dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return &provider.Bundle{Versions: versions, Unchanged: true}, nil
}

func TestAProviderMayWriteTheFilesItself(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"a": "1"}
	w.config.Providers = func(string) (provider.Provider, error) { return writesItself{files}, nil }
	w.service = publish.New(w.config)
	w.mustPublish()
	w.mustHold(files)
	files["a"] = "2"
	if res, err := w.service.Refresh(t.Context(), "csi-1"); err != nil || res.Outcome != publish.Rotated {
		t.Fatalf("refresh = %+v, %v; want rotated", res, err)
	}
	w.mustHold(files)
	if res, err := w.service.Refresh(t.Context(), "csi-1"); err != nil || res.Outcome != publish.Unchanged {
		t.Fatalf("refresh = %+v, %v; want unchanged", res, err)
	}
}

// forgetful is a provider of the old kind that returns files once, and then
// other versions without files.
type forgetful struct{ calls *int }

func (p forgetful) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	*p.calls++
	if *p.calls == 1 {
		return &provider.Bundle{Versions: provider.Versions{"o": "1"}, Files: []provider.File{{Path: "o", Mode: 0o600, Data: secret.New([]byte("old"))}}}, nil
	}
	return &provider.Bundle{Versions: provider.Versions{"o": "2"}, Unchanged: true}, nil
}

// B30 of the upstream driver: it took the old files for the new ones.
func TestB30AReplyWithoutFilesNeverPassesOldSecretsForNew(t *testing.T) {
	w := newWorld(t)
	calls := 0
	w.config.Providers = func(string) (provider.Provider, error) { return forgetful{&calls}, nil }
	w.service = publish.New(w.config)
	w.mustPublish()
	_, err := w.service.Refresh(t.Context(), "csi-1")
	var stale *publish.StaleError
	if !errors.As(err, &stale) {
		t.Errorf("refresh = %v, want a *StaleError", err)
	}
	w.mustHold(map[string]string{"o": "old"})
}

func TestAProviderThatWritesNothingPublishesNothing(t *testing.T) {
	w := newWorld(t)
	w.config.Providers = func(string) (provider.Provider, error) { return writesItself{}, nil }
	w.service = publish.New(w.config)
	_, err := w.publish()
	check(t, err, nil)
	w.mustBeGone()
}

func TestFailuresInARowBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.mustPublish()
		w.store.Break()
		began := time.Now()
		var last time.Duration
		for failures := 1; failures <= 8; failures++ {
			_, err := w.service.Refresh(t.Context(), "csi-1")
			var stale *publish.StaleError
			if !errors.As(err, &stale) || !stale.Since.Equal(began) {
				t.Fatalf("refresh = %v, want stale since %v", err, began)
			}
			rec, _ := w.volumes.Get("csi-1")
			wait := time.Until(rec.Due)
			if rec.Stale.Failures != failures || wait < last*8/10 { // +/- 10 % of jitter on both
				t.Errorf("failure %d: record says %d, next in %v after %v", failures, rec.Stale.Failures, wait, last)
			}
			last = wait
			time.Sleep(time.Second)
		}
		if last > 5*time.Minute*11/10 {
			t.Errorf("the wait grew to %v, want at most 5m", last)
		}
	})
}

func TestANodeHasNoMoreVolumesThanItMay(t *testing.T) {
	w := newWorld(t)
	w.config.MaxVolumes = 1
	w.restart()
	w.mustPublish()
	v := w.volume()
	v.ID, v.Target = "csi-2", v.Target+"-2"
	if _, err := w.service.Publish(t.Context(), v); !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "1 volumes") {
		t.Errorf("Publish = %v", err)
	}
	if err := w.unpublish(); err != nil {
		t.Fatal(err)
	}
	w.mustPublish()
}
