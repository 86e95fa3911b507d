package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
)

// shortDir returns a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func listen(t *testing.T, dir, name string) net.Listener {
	t.Helper()
	lis, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

// A plug is a provider of which only Version matters.
type plug struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	version func() error
}

func (p plug) Version(context.Context, *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	return &v1alpha1.VersionResponse{Version: "v1alpha1"}, p.version()
}

func answer(t *testing.T, lis net.Listener, version func() error) {
	t.Helper()
	server := grpc.NewServer()
	v1alpha1.RegisterCSIDriverProviderServer(server, plug{version: version})
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() { server.Stop(); <-done })
}

// Each of two providers answers once the other one was asked.
func TestProvidersAreAskedAtTheSameTime(t *testing.T) {
	dir := shortDir(t)
	var both sync.WaitGroup
	both.Add(2)
	for _, name := range []string{"one", "two"} {
		answer(t, listen(t, dir, name), func() error { both.Done(); both.Wait(); return nil })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := probe(ctx, dir, []string{"one", "two"}); err != nil {
		t.Errorf("probe = %v, want nil", err)
		both.Done() // lets the one that was asked end
	}
}

func TestAProviderThatHangsFailsWhenTheTimeIsOver(t *testing.T) {
	dir := shortDir(t)
	listen(t, dir, "silent")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := probe(ctx, dir, []string{"silent"})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), `provider "silent" does not answer at `) {
		t.Errorf("probe = %v, want that it does not answer in time", err)
	}
}

func TestAProbeForNobodyIsAMistake(t *testing.T) {
	if err := probe(t.Context(), shortDir(t), nil); err == nil || !strings.Contains(err.Error(), "--providers is empty") {
		t.Errorf("probe = %v, want an error", err)
	}
}
