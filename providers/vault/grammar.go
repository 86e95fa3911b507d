package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

// A query is what one volume asks for, with all defaults filled in.
type query struct {
	endpoint  endpoint
	namespace string
	login     login
	objects   []object
	reads     []*read // what the objects are made of; each is asked for once
}

// errNothing is a text that people search for.
var errNothing = errors.New("no secrets configured - the provider will not read any secret material")

// maxObjects bounds what one class may ask for.
const maxObjects = 1024

// parse returns the query of a request, or why it can never be answered.
func (p *Provider) parse(req *provider.Request) (*query, error) {
	given := parameters{p.product, req.Parameters}
	q := &query{endpoint: p.settings.endpoint, namespace: p.settings.namespace}
	if err := given.endpoint(q); err != nil {
		return nil, fmt.Errorf("%w: %w", err, provider.ErrInvalid)
	}
	var err error
	if q.objects, err = parseObjects(req); err != nil {
		return nil, err
	}
	q.reads = distinct(q.objects)
	if q.login, err = p.parseLogin(given, req); err != nil {
		return nil, err
	}
	if q.login.certificate != nil {
		q.endpoint.certificate = q.login.identity
	}
	q.login.identity = digest(fmt.Sprintf("%+v", q.endpoint), q.namespace, q.login.identity)
	return q, nil
}

// parameters looks the parameters of a class up.
type parameters struct {
	product Product
	values  map[string]string
}

// get returns the parameter of that name, such as Address, and the key that it
// has in the class: that of the first prefix under which it is present.
func (p parameters) get(name string) (value, key string, ok bool) {
	for _, prefix := range p.product.prefixes() {
		if value, ok = p.values[prefix+name]; ok {
			return value, prefix + name, true
		}
	}
	return "", p.product.prefixes()[0] + name, false
}

// set puts the parameter into a setting, unless the class does not have it or
// leaves it empty. It reports whether it did.
func (p parameters) set(into *string, name string) bool {
	value, _, _ := p.get(name)
	if value != "" {
		*into = value
	}
	return value != ""
}

// endpoint sets what the class says of the server.
func (p parameters) endpoint(q *query) error {
	e := &q.endpoint
	p.set(&e.address, "Address")
	p.set(&e.serverName, "TLSServerName")
	p.set(&q.namespace, "Namespace")
	if err := checkPath(q.namespace); err != nil {
		return fmt.Errorf("the namespace of the server %w", err)
	}
	var authorities files
	if file, folder := p.set(&authorities.caCert, "CACertPath"), p.set(&authorities.caDirectory, "CADirectory"); file || folder {
		e.caCert, e.caDirectory, e.caBytes = authorities.caCert, authorities.caDirectory, ""
	}
	p.set(&e.clientCert, "TLSClientCertPath")
	p.set(&e.clientKey, "TLSClientKeyPath")
	if text, key, _ := p.get("SkipTLSVerify"); text != "" {
		skip, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("parameter %q: want true or false", key)
		}
		e.skipVerify = skip
	}
	return e.check()
}

// authMount returns where the class says to log in.
func (p parameters) authMount(fallback string) (string, error) {
	old, _, isOld := p.get("KubernetesMountPath")
	mount, _, isNew := p.get("AuthMountPath")
	if isOld && isNew {
		// A text that people search for.
		return "", fmt.Errorf("cannot set both %[1]sKubernetesMountPath and %[1]sAuthMountPath", p.product)
	}
	mount = strings.Trim(mount+old, "/")
	if mount == "" {
		return fallback, nil
	}
	return mount, checkPath(mount)
}

// parameter is one item of the parameter objects. What it does not have is
// ignored, as it always was.
type parameter struct {
	ObjectName     string          `param:"objectName"`
	SecretPath     string          `param:"secretPath"`
	SecretKey      string          `param:"secretKey"`
	Method         string          `param:"method"`
	SecretArgs     any             `param:"secretArgs"`
	FilePermission params.Mode     `param:"filePermission"`
	Encoding       params.Encoding `param:"encoding"`
	Optional       bool            `param:"optional"`
	_              struct{}        `param:"*"`
}

// parseObjects returns the objects of a request.
func parseObjects(req *provider.Request) ([]object, error) {
	if strings.TrimSpace(req.Parameters["objects"]) == "" {
		return nil, fmt.Errorf("parameter \"objects\": %w: %w", errNothing, provider.ErrInvalid)
	}
	list, err := params.Objects[parameter](req.Parameters, "objects")
	switch {
	case errors.Is(err, params.ErrNone):
		return nil, fmt.Errorf("%w: %w", errNothing, err)
	case err != nil:
		return nil, err
	case len(list) > maxObjects:
		return nil, fmt.Errorf("objects lists %d objects, and the limit is %d: %w", len(list), maxObjects, provider.ErrInvalid)
	}
	objects := make([]object, len(list))
	for i, item := range list {
		if objects[i], err = item.object(req.Mode); err != nil {
			return nil, fmt.Errorf("objects[%d]: %w: %w", i, err, provider.ErrInvalid)
		}
	}
	if err := checkNames(objects); err != nil {
		return nil, err
	}
	return objects, nil
}

// object checks the item and fills in its defaults.
func (p parameter) object(fallback fs.FileMode) (object, error) {
	o := object{name: p.ObjectName, key: p.SecretKey, encoding: p.Encoding, mode: p.FilePermission.Or(fallback), optional: p.Optional}
	var err error
	switch args, ok := p.SecretArgs.(map[string]any); {
	case p.ObjectName == "":
		return o, errors.New("objectName, the name of the file, must be set")
	case p.SecretArgs != nil && !ok:
		return o, errors.New("secretArgs must be fields")
	default:
		o.read, err = newRead(p.Method, p.SecretPath, args)
		return o, err
	}
}

// checkNames returns an error unless one volume can hold all objects.
func checkNames(objects []object) error {
	count := make(map[string]int)
	for _, o := range objects {
		count[o.name]++
	}
	maps.DeleteFunc(count, func(_ string, n int) bool { return n == 1 })
	if len(count) > 0 {
		// A text that people search for.
		return fmt.Errorf("each `objectName` within a SecretProviderClass must be unique, but the following keys were duplicated: %s: %w",
			strings.Join(slices.Sorted(maps.Keys(count)), ", "), provider.ErrInvalid)
	}
	return provider.CheckFiles(func(yield func(string, fs.FileMode) bool) {
		for _, o := range objects {
			if !yield(o.name, o.mode) {
				return
			}
		}
	})
}

// distinct lets equal reads of objects be one, and returns them in order.
func distinct(objects []object) []*read {
	byDigest := make(map[string]*read)
	var reads []*read
	for i, o := range objects {
		known, ok := byDigest[o.read.digest]
		if !ok {
			known = o.read
			byDigest[o.read.digest] = known
			reads = append(reads, known)
		}
		known.optional = known.optional && o.optional
		objects[i].read = known
	}
	return reads
}
