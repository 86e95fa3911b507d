package publish_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/volume"
)

// instant is a class source and a provider that answer at once.
type instant struct{ bundle *provider.Bundle }

func (instant) Class(_ context.Context, name class.Name) (*class.Class, error) {
	return &class.Class{Name: name, Revision: "1", Provider: "instant"}, nil
}

func (instant) Changes(ctx context.Context, _ func(class.Name)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (i instant) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	return i.bundle, nil
}

// BenchmarkPublish takes a volume through its life without gRPC.
func BenchmarkPublish(b *testing.B) {
	for _, files := range []int{1, 5, 20} {
		bundle := &provider.Bundle{Versions: provider.Versions{"o": "1"}}
		for i := range files {
			bundle.Files = append(bundle.Files, provider.File{Path: fmt.Sprint("file", i), Mode: 0o644, Data: secret.New(make([]byte, 1024))})
		}
		b.Run(fmt.Sprint(files, " files"), func(b *testing.B) { benchPublish(b, instant{bundle}) })
	}
}

func benchPublish(b *testing.B, source instant) {
	mounts, err := tmpfs.New()
	if err != nil {
		b.Fatal(err)
	}
	volumes, err := volume.OpenDir(b.TempDir() + "/volumes")
	if err != nil {
		b.Fatal(err)
	}
	defer volumes.Close()
	s := publish.New(publish.Config{
		Classes: source, Mounts: mounts, Volumes: volumes, Schedule: &publish.Schedule{}, Limits: tmpfs.Options{Size: 1 << 20, Inodes: 1024},
		Providers: func(string) (provider.Provider, error) { return source, nil },
	})
	v := volume.Volume{ID: "v", Target: b.TempDir() + "/v", Class: class.Name{Namespace: "ns", Name: "c"}, Pod: provider.Pod{Namespace: "ns", UID: "u"}}
	for b.Loop() {
		if _, err := s.Publish(b.Context(), v); err != nil {
			b.Fatal(err)
		}
		if err := s.Unpublish(b.Context(), v.ID, v.Target); err != nil {
			b.Fatal(err)
		}
	}
}
