package registration_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// A kubelet does what kubelet's plugin watcher does: it asks at every socket
// that is in the folder at its start, and at every one that appears later;
// once, whatever becomes of it.
type kubelet struct {
	dir    string
	takes  func(*registerapi.PluginInfo) error
	asked  chan *registerapi.PluginInfo // each that it has given its answer
	gone   chan string                  // each socket that disappeared
	errors chan error
}

// startKubelet starts a kubelet that takes a driver unless takes returns an
// error. It runs until stop is called, or the test ends.
func startKubelet(t *testing.T, dir string, takes func(*registerapi.PluginInfo) error) (k *kubelet, stop func()) {
	t.Helper()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := watcher.Add(dir); err != nil {
		t.Fatal(err)
	}
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	k = &kubelet{dir, takes, make(chan *registerapi.PluginInfo, 100), make(chan string, 100), make(chan error, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.run(ctx, watcher, found) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		_ = watcher.Close()
		for len(k.errors) > 0 {
			t.Error(<-k.errors)
		}
	})
	t.Cleanup(stop)
	return k, stop
}

func (k *kubelet) run(ctx context.Context, watcher *fsnotify.Watcher, found []fs.DirEntry) {
	for _, entry := range found {
		k.register(ctx, filepath.Join(k.dir, entry.Name()))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-watcher.Events:
			switch {
			case event.Has(fsnotify.Create):
				k.register(ctx, event.Name)
			case event.Has(fsnotify.Remove) && event.Name != k.dir:
				k.gone <- event.Name
			}
		}
	}
}

// register asks at one socket, and answers.
func (k *kubelet) register(ctx context.Context, path string) {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
		return
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Millisecond, Multiplier: 2, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: patience,
		}))
	if err != nil {
		k.errors <- err
		return
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := registerapi.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	if err == nil {
		status := &registerapi.RegistrationStatus{PluginRegistered: true}
		if refusal := k.takes(info); refusal != nil {
			status = &registerapi.RegistrationStatus{Error: refusal.Error()}
		}
		_, err = client.NotifyRegistrationStatus(ctx, status)
	}
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		k.errors <- err
	}
	k.asked <- info
}

// takesAll takes every driver.
func takesAll(*registerapi.PluginInfo) error { return nil }
