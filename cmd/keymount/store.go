package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/fsnotify/fsnotify"
)

// patience is how long a change may take to arrive.
const patience = 10 * time.Second

// encryptStore makes the store from the plain text of the example, and returns
// the number of files.
func (s *scene) encryptStore() (files int, err error) {
	err = filepath.WalkDir(s.secrets, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		return s.encrypt(path)
	})
	return files, err
}

// encrypt brings one file of the example into the store.
func (s *scene) encrypt(path string) error {
	name, err := filepath.Rel(s.secrets, path)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return s.put(name, text)
}

// put stores text under a name, and replaces what was there at once.
func (s *scene) put(name string, text []byte) error {
	stored := s.path("store", name+".age")
	if err := os.MkdirAll(filepath.Dir(stored), 0o700); err != nil {
		return err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, s.key.Recipient())
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	fresh := s.path("fresh.age")
	if err := os.WriteFile(fresh, sealed.Bytes(), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, stored)
}

// get returns what is stored under a name.
func (s *scene) get(name string) ([]byte, error) {
	f, err := os.Open(s.path("store", name+".age"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := age.Decrypt(f, s.key)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// change replaces a secret that the volume shows by another one, and waits
// until the volume shows that. It returns the file of the store.
func (s *scene) change(ctx context.Context, v *tryVolume) (name string, took time.Duration, err error) {
	for _, id := range slices.Sorted(maps.Keys(s.versions(v))) {
		if !strings.HasSuffix(id, "/") { // a folder
			name = id
		}
	}
	text, err := s.get(name)
	if err != nil {
		return name, 0, fmt.Errorf("read %s from the store: %w", name, err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return name, 0, err
	}
	defer watcher.Close()
	if err := watcher.Add(v.target); err != nil {
		return name, 0, err
	}
	if text, err = anew(name, text); err != nil {
		return name, 0, err
	}
	if err := s.put(name, text); err != nil {
		return name, 0, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the change of %s did not arrive within %v", name, patience))
	defer cancel()
	for {
		select {
		case event := <-watcher.Events:
			if v.rotated(event) {
				return name, time.Since(began), nil
			}
		case <-ctx.Done():
			return name, 0, context.Cause(ctx)
		}
	}
}

// rotated reports whether the event is that the volume shows a new generation
// of files.
func (v *tryVolume) rotated(event fsnotify.Event) bool {
	return event.Has(fsnotify.Create) && event.Name == filepath.Join(v.target, "..data")
}

// anew returns the text of a file with other secrets of the same form.
func anew(name string, text []byte) ([]byte, error) {
	switch filepath.Ext(name) {
	case ".json":
		var document map[string]json.RawMessage
		if json.Unmarshal(text, &document) == nil {
			other := map[string]string{}
			for key := range document {
				other[key] = rand.Text()
			}
			return json.Marshal(other)
		}
	case ".env":
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		for i, line := range lines {
			if key, _, ok := strings.Cut(line, "="); ok {
				lines[i] = key + "=" + rand.Text()
			}
		}
		return []byte(strings.Join(lines, "\n") + "\n"), nil
	}
	return fmt.Appendf(nil, "%x", rand.Text()), nil // also valid as hex and base64
}

// follow shows every rotation until ctx ends, and brings edits of the example
// into the store.
func follow(ctx context.Context, r *report, s *scene) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	err = filepath.WalkDir(s.secrets, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return watcher.Add(path)
	})
	for _, v := range s.volumes {
		err = errors.Join(err, watcher.Add(v.target))
	}
	if err != nil {
		return err
	}
	r.step("watch", "edit files below %s; look at the volume in /proc/%d/root%s; stop with Ctrl-C", s.secrets, os.Getpid(), s.volumes[0].target)
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			if err := s.follow(r, event); err != nil {
				return err
			}
		}
	}
}

// follow acts on one event in a volume or among the plain text.
func (s *scene) follow(r *report, event fsnotify.Event) error {
	if strings.HasPrefix(event.Name, s.dir+"/") {
		for _, v := range s.volumes {
			if v.rotated(event) {
				r.step("rotate", "the pod sees new content")
				return r.volume(s, v)
			}
		}
		return nil
	}
	err := s.encrypt(event.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // an editor's temporary file
		r.step("edit", "%s: %v", event.Name, err)
	}
	return nil
}
