// Package image writes container images of one layer from files, with no
// container engine and no registry. The archive is an OCI layout that also has
// docker's manifest.json: containerd, docker, podman and kind load it. The same
// files give the same bytes, whoever writes them and whenever.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// An Image is what to put into an archive.
type Image struct {
	Reference  string   // such as example.org/app:1
	Entrypoint []string // may be empty: then the container says what to run
	Env        []string // such as PATH=/bin
	Arch       string   // of its programs; "" is this machine's
	Files      []File
}

// A File is a file, a folder or a symbolic link. Folders above it need no
// mention.
type File struct {
	Path   string // in the image
	Source string // the file on this machine; "" for a link and for a folder
	Link   string // the target of a symbolic link; "" for a file and for a folder
	Mode   int64  // of a file 0755 and of a folder 01777 if 0
}

// Write writes the archive.
func (i *Image) Write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Reference, err)
	}
	archive := &archive{tar: tar.NewWriter(w), files: map[string]bool{}}
	layerBlob := archive.blob(mediaType+"layer.v1.tar", layer)
	config := archive.blobOf(mediaType+"config.v1+json", i.config(layerBlob.Digest))
	manifest := archive.blobOf(mediaType+"manifest.v1+json", manifest{
		SchemaVersion: 2, MediaType: mediaType + "manifest.v1+json", Config: &config, Layers: []descriptor{layerBlob},
	})
	manifest.Platform = &platform{i.arch(), "linux"}
	manifest.Annotations = map[string]string{
		"io.containerd.image.name":          i.Reference,
		"org.opencontainers.image.ref.name": i.Reference[strings.LastIndex(i.Reference, ":")+1:],
	}
	archive.json("index.json", index{2, mediaType + "index.v1+json", []descriptor{manifest}})
	archive.json("manifest.json", []dockerManifest{{config.path(), []string{i.Reference}, []string{layerBlob.path()}}})
	archive.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"})
	return archive.close()
}

// WriteFile writes the archive to a file, which appears only when it is whole.
func (i *Image) WriteFile(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "image-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = i.Write(f)
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (i *Image) arch() string {
	if i.Arch == "" {
		return runtime.GOARCH
	}
	return i.Arch
}

// config returns the image's own description.
func (i *Image) config(layer string) config {
	var c config
	c.platform = platform{i.arch(), "linux"}
	c.Created = "1970-01-01T00:00:00Z"
	c.Config.Entrypoint, c.Config.Env = i.Entrypoint, i.Env
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{layer}
	return c
}

const mediaType = "application/vnd.oci.image."

// The types below are those of the OCI image specification.
type (
	platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Platform    *platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        *descriptor  `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	config struct {
		platform
		Created string `json:"created"`
		Config  struct {
			Entrypoint []string `json:"Entrypoint,omitempty"`
			Env        []string `json:"Env,omitempty"`
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	dockerManifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
)

// path returns the place of a blob in the archive.
func (d descriptor) path() string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }

// An archive is the file that holds the image. It remembers its first error.
type archive struct {
	tar   *tar.Writer
	files map[string]bool
	err   error
}

func (a *archive) add(path string, content []byte) {
	if a.err != nil || a.files[path] {
		return
	}
	a.files[path] = true
	a.err = a.tar.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatPAX})
	if a.err == nil {
		_, a.err = a.tar.Write(content)
	}
}

func (a *archive) json(path string, value any) {
	if content, err := json.Marshal(value); err != nil {
		a.err = err
	} else {
		a.add(path, content)
	}
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(content)}
	a.add(d.path(), content)
	return d
}

func (a *archive) blobOf(mediaType string, value any) descriptor {
	content, err := json.Marshal(value)
	if err != nil {
		a.err = err
	}
	return a.blob(mediaType, content)
}

func (a *archive) close() error {
	if a.err != nil {
		return a.err
	}
	return a.tar.Close()
}

// layer returns the one layer of the image.
func (i *Image) layer() ([]byte, error) {
	var content bytes.Buffer
	l := &layer{tar: tar.NewWriter(&content), folders: map[string]bool{".": true}}
	for _, f := range i.Files {
		if err := l.add(f); err != nil {
			return nil, err
		}
	}
	err := l.tar.Close()
	return content.Bytes(), err
}
