package azure

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

const (
	maxFiles   = 1024 // of one class
	maxHistory = 100  // versions of one object
)

// A query is what one volume asks for, with all defaults filled in.
type query struct {
	identity  identity
	vaultName string
	objects   []*object
	reads     []*read // what the objects are made of; each is asked for once
}

// parse returns the query of a request, or why it can never be answered.
func (p *Provider) parse(req *provider.Request) (*query, error) {
	given := parameters{req.Parameters, &p.settings}
	q := &query{}
	var err error
	if q.vaultName, err = given.vault(); err != nil {
		return nil, err
	}
	if q.identity, err = given.identity(req); err != nil {
		return nil, err
	}
	if q.objects, err = given.objects(req.Mode); err != nil {
		return nil, err
	}
	if err := checkFiles(q.objects); err != nil {
		return nil, err
	}
	q.plan()
	return q, q.identity.prove(req, p.key)
}

func invalid(err error) error { return fmt.Errorf("%w: %w", err, provider.ErrInvalid) }

// parameters are those of a class, and what is true where it says nothing.
type parameters struct {
	values   map[string]string
	settings *settings
}

// value returns a parameter without the white space around it.
func (p parameters) value(name string) string { return strings.TrimSpace(p.values[name]) }

// flag returns a parameter that is true or false; false if it is not set.
func (p parameters) flag(name string) (bool, error) {
	text := p.value(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		// A text that people search for.
		return false, fmt.Errorf("failed to parse %s flag, error: want true or false: %w", name, provider.ErrInvalid)
	}
	return on, nil
}

var vaultForm = regexp.MustCompile(`^[-A-Za-z0-9]+$`)

// vault returns the name of the vault. The texts are those that people search
// for.
func (p parameters) vault() (string, error) {
	switch name := p.value("keyvaultName"); {
	case name == "":
		return "", fmt.Errorf("keyvaultName is not provided: %w", provider.ErrInvalid)
	case len(name) < 3 || len(name) > 24:
		return "", fmt.Errorf("Invalid vault name: %.80q, must be between 3 and 24 chars: %w", name, provider.ErrInvalid)
	case !vaultForm.MatchString(name):
		return "", fmt.Errorf("Invalid vault name: %q, must match [-a-zA-Z0-9]{3,24}: %w", name, provider.ErrInvalid)
	default:
		return name, nil
	}
}

// An item is one of the parameter objects. What it does not have is ignored,
// as it always was.
type item struct {
	ObjectName           string          `param:"objectName"`
	ObjectAlias          string          `param:"objectAlias"`
	ObjectVersion        string          `param:"objectVersion"`
	ObjectVersionHistory int             `param:"objectVersionHistory"`
	ObjectType           string          `param:"objectType"`
	ObjectFormat         string          `param:"objectFormat"`
	ObjectEncoding       params.Encoding `param:"objectEncoding"`
	FilePermission       params.Mode     `param:"filePermission"`
	SeparateFiles        bool            `param:"separateFiles"`
	PasswordObject       string          `param:"passwordObject"`
	Optional             bool            `param:"optional"`
	_                    struct{}        `param:"*"`
}

// objects returns the objects of a class.
func (p parameters) objects(mode fs.FileMode) ([]*object, error) {
	if p.value("objects") == "" {
		return nil, fmt.Errorf("objects is not set: %w", provider.ErrInvalid) // a text that people search for
	}
	list, err := params.Objects[item](p.values, "objects")
	if err != nil {
		return nil, fmt.Errorf("failed to yaml unmarshal objects, error: %w", err) // a text that people search for
	}
	objects := make([]*object, len(list))
	for i, item := range list {
		o, err := item.object(mode)
		if err != nil {
			return nil, fmt.Errorf("objects[%d]: %w: %w", i, err, provider.ErrInvalid)
		}
		o.separate = o.separate || p.settings.SeparateFiles && o.kind == secretKind
		objects[i] = o
	}
	return objects, nil
}

var (
	objectForm  = regexp.MustCompile(`^[-0-9A-Za-z]{1,127}$`)
	versionForm = regexp.MustCompile(`^[-0-9A-Za-z]{1,64}$`)
)

// object checks the item and fills in its defaults.
func (n item) object(fallback fs.FileMode) (*object, error) {
	o := &object{
		name: strings.TrimSpace(n.ObjectName), file: strings.TrimSpace(n.ObjectAlias), version: strings.TrimSpace(n.ObjectVersion),
		password: strings.TrimSpace(n.PasswordObject), encoding: n.ObjectEncoding, mode: n.FilePermission.Or(fallback),
		history: max(1, n.ObjectVersionHistory), separate: n.SeparateFiles, optional: n.Optional,
	}
	if o.file == "" {
		o.file = o.name
	}
	if strings.EqualFold(o.version, "latest") {
		o.version = ""
	}
	switch {
	case !objectForm.MatchString(o.name):
		return nil, fmt.Errorf("objectName %.200q is no name in a vault: want letters, digits and dashes", o.name)
	case o.version != "" && !versionForm.MatchString(o.version):
		return nil, fmt.Errorf("objectVersion %.200q is no version in a vault: want letters and digits", o.version)
	case n.ObjectVersionHistory < 0 || n.ObjectVersionHistory > maxHistory:
		return nil, fmt.Errorf("objectVersionHistory is %d: want 0 to %d", n.ObjectVersionHistory, maxHistory)
	case o.password != "" && !objectForm.MatchString(o.password):
		return nil, fmt.Errorf("passwordObject %.200q is no name in a vault: want letters, digits and dashes", o.password)
	}
	var err error
	if o.kind, err = objectKindOf(n.ObjectType); err != nil {
		return nil, err
	}
	if o.pfx, err = isPFX(n.ObjectFormat); err != nil {
		return nil, err
	}
	return o, o.check()
}

// objectKindOf returns the kind that the class names so.
func objectKindOf(text string) (objectKind, error) {
	switch k := objectKind(strings.ToLower(strings.TrimSpace(text))); k {
	case secretKind, keyKind, certificateKind:
		return k, nil
	default:
		return "", fmt.Errorf("Invalid vaultObjectTypes. Should be secret, key, or cert: objectType is %.80q", text) // a text that people search for
	}
}

func isPFX(format string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(format)) {
	case "", "pem":
		return false, nil
	case "pfx":
		return true, nil
	default:
		return false, fmt.Errorf("invalid objectFormat: %.80s, should be PEM or PFX", format) // a text that people search for
	}
}

// check says what does not go together. The texts are those that people search
// for.
func (o *object) check() error {
	switch {
	case o.kind != secretKind && o.pfx:
		return errors.New("PFX format only supported for objectType: secret")
	case o.kind != secretKind && o.encoding != params.UTF8:
		return errors.New("objectEncoding only supported for objectType: secret")
	case o.kind != secretKind && o.separate:
		return errors.New("separateFiles only supported for objectType: secret, which has the certificate and its key")
	case o.password != "" && !o.pfx:
		return errors.New("passwordObject only supported for objectFormat: pfx")
	case o.password != "" && o.history > 1:
		return errors.New("passwordObject and objectVersionHistory exclude each other: a password is that of one version")
	}
	return nil
}

// checkFiles returns an error unless one volume can hold the files of all
// objects. Of files that only a certificate makes, too, since what is stored
// may become one.
func checkFiles(objects []*object) error {
	made := make(map[string]int)
	var order []string
	for i, o := range objects {
		for _, path := range o.paths() {
			if first, taken := made[path]; taken {
				return fmt.Errorf("objects[%d] (%s) and objects[%d] (%s) both make the file %q: give one of them another objectAlias: %w",
					first, objects[first].name, i, o.name, path, provider.ErrInvalid)
			}
			made[path] = i
			order = append(order, path)
		}
	}
	if len(order) > maxFiles {
		return fmt.Errorf("the objects make %d files, and the limit is %d: %w", len(order), maxFiles, provider.ErrInvalid)
	}
	return provider.CheckFiles(func(yield func(string, fs.FileMode) bool) {
		for _, path := range order {
			if !yield(path, objects[made[path]].mode) {
				return
			}
		}
	})
}

// plan gives each object an ID of its own, and lets equal reads of objects be
// one.
func (q *query) plan() {
	taken := make(map[string]bool)
	byTarget := make(map[string]*read)
	add := func(r read, optional bool) *read {
		key := fmt.Sprintf("%s/%s/%s/%d", r.kind, r.name, r.version, r.history)
		if byTarget[key] == nil {
			r.optional = true
			byTarget[key] = &r
			q.reads = append(q.reads, &r)
		}
		byTarget[key].optional = byTarget[key].optional && optional
		return byTarget[key]
	}
	for _, o := range q.objects {
		if o.id = string(o.kind) + "/" + o.name; taken[o.id] {
			o.id += " as " + o.file
		}
		taken[o.id] = true
		o.read = add(read{kind: o.kind, name: o.name, version: o.version, history: o.history}, o.optional)
		if o.password != "" {
			o.passwordRead = add(read{kind: secretKind, name: o.password, history: 1}, false)
		}
	}
}
