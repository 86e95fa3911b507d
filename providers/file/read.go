package file

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// readSource returns what each object takes from the source; nil for one that
// is optional and not there.
func (p *Provider) readSource(tree *tree, s source, identities identities) ([]*secret.Value, error) {
	contents := make([]*secret.Value, len(s.objects))
	if s.mark.file == "" {
		return contents, nil
	}
	data, err := p.readFile(tree, s.mark, identities)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.objects[0].in(tree), err)
	}
	doc := document{file: s.objects[0].path, text: data}
	for i, o := range s.objects {
		content, err := o.take(&doc)
		switch {
		case o.optional && errors.Is(err, provider.ErrNotFound):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", o.in(tree), err)
		}
		value := secret.New(content)
		contents[i] = &value
	}
	return contents, nil
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
	data, err := io.ReadAll(io.LimitReader(content, p.maxSize+1))
	switch {
	case err != nil && content != io.Reader(f):
		return nil, errDamaged
	case err != nil:
		return nil, because(err)
	case int64(len(data)) > p.maxSize:
		return nil, p.tooLarge()
	}
	return data, nil
}

func (p *Provider) tooLarge() error {
	return fmt.Errorf("is larger than %d bytes (--file-max-size): %w", p.maxSize, provider.ErrInvalid)
}
