package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A reader reads the sources of one volume.
type reader struct {
	*Provider
	tree       *tree
	identities identities
	left       int64 // bytes that the volume may have beyond those read
}

// read reads every source once, and makes the files of the volume.
func (p *Provider) read(ctx context.Context, tree *tree, sources []source) (*provider.Bundle, error) {
	r := &reader{Provider: p, tree: tree, identities: p.keys.lazily(), left: 16 * p.maxSize}
	bundle := &provider.Bundle{Versions: make(provider.Versions, len(sources))}
	for _, source := range sources {
		contents, err := r.source(ctx, source)
		if err != nil {
			return nil, err
		}
		for i, object := range source.objects {
			if contents[i] != nil {
				bundle.Files = append(bundle.Files, provider.File{Path: object.name, Mode: object.mode, Data: *contents[i]})
			}
		}
		bundle.Versions[source.mark.id] = p.versions.add(source, contents)
	}
	return bundle, nil
}

// source returns what each object takes from the source; nil for one that is
// optional and not there.
func (r *reader) source(ctx context.Context, s source) ([]*secret.Value, error) {
	if err := canceled(ctx); err != nil {
		return nil, err
	}
	contents := make([]*secret.Value, len(s.objects))
	if s.mark.file == "" {
		return contents, nil
	}
	data, err := r.readFile(r.tree, s.mark, r.identities)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.objects[0].in(r.tree), err)
	}
	defer clear(data) // the volume has copies
	doc := &document{file: s.objects[0].path, text: data}
	for i, o := range s.objects {
		if err := canceled(ctx); err != nil {
			return nil, err
		}
		content, err := r.take(o, doc)
		switch {
		case o.optional && errors.Is(err, provider.ErrNotFound):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", o.in(r.tree), err)
		}
		value := secret.New(content)
		contents[i] = &value
	}
	return contents, nil
}

// take returns the bytes that the object takes from its file, and counts them.
func (r *reader) take(o object, doc *document) ([]byte, error) {
	content, err := o.take(doc)
	if err != nil {
		return nil, err
	}
	if r.left -= int64(len(content)); r.left < 0 {
		return nil, fmt.Errorf("the volume is larger than %d bytes (--file-max-size): %w", 16*r.maxSize, provider.ErrInvalid)
	}
	return content, nil
}

// take returns the bytes that the object takes from its file.
func (o object) take(doc *document) ([]byte, error) {
	content := doc.text
	if o.key != "" {
		var err error
		if content, err = doc.value(o.key); err != nil {
			return nil, err
		}
	}
	return o.encoding.Decode(content)
}

// readFile returns the content of a file, decrypted if its name says so.
func (p *Provider) readFile(tree *tree, m mark, identities identities) ([]byte, error) {
	if m.stat.size > p.maxSize {
		return nil, p.tooLarge()
	}
	f, err := tree.open(m)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var content io.Reader = f
	if strings.HasSuffix(m.file, ageSuffix) {
		if content, err = decrypt(f, identities); err != nil {
			return nil, err
		}
	}
	data := bytes.NewBuffer(make([]byte, 0, m.stat.size+bytes.MinRead)) // which need not grow, and leave copies
	_, err = data.ReadFrom(io.LimitReader(content, p.maxSize+1))
	switch {
	case err != nil && content != io.Reader(f):
		return nil, errDamaged
	case err != nil:
		return nil, because(err)
	case int64(data.Len()) > p.maxSize:
		return nil, p.tooLarge()
	}
	return data.Bytes(), nil
}

func (p *Provider) tooLarge() error {
	return fmt.Errorf("is larger than %d bytes (--file-max-size): %w", p.maxSize, provider.ErrInvalid)
}
