package aws

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

// A query is what one volume asks for, with all defaults filled in.
type query struct {
	identity identity
	regions  []string // the primary one, and perhaps one to fail over to
	objects  []object
	reads    []*read // what the objects are made of; each is asked for once
}

const (
	// maxFiles bounds what one class may ask for.
	maxFiles = 1024
	// regionLabel is the label of a node that says where it is.
	regionLabel = "topology.kubernetes.io/region"
)

// regionName keeps what a class says of a region from being more than one
// label of a host name.
var regionName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// parse returns the query of a request, or why it can never be answered. What
// can be said without the cluster is said first.
func (p *Provider) parse(req *provider.Request) (*query, error) {
	given := parameters{req.Parameters, &p.settings}
	objects, err := given.objects(req.Mode)
	if err != nil {
		return nil, err
	}
	identity, err := given.identity(req)
	if err != nil {
		return nil, err
	}
	if err := req.Facts.Known(given.unknown(identity)...); err != nil {
		return nil, fmt.Errorf("what the class leaves open (parameters region, roleArn and audience): %w", err)
	}
	q := &query{identity: identity, objects: objects}
	if q.regions, err = given.regions(req.Facts[provider.NodeLabel(regionLabel)]); err != nil {
		return nil, invalid(err)
	}
	if err := q.aim(); err != nil {
		return nil, invalid(err)
	}
	err = q.identity.complete(req)
	return q, err
}

func invalid(err error) error { return fmt.Errorf("%w: %w", err, provider.ErrInvalid) }

// parameters are those of a class, and what is true where it says nothing.
type parameters struct {
	values   map[string]string
	settings *settings
}

// flag returns a parameter that is true or false; false if it is not set.
func (p parameters) flag(name string) (bool, error) {
	text := p.values[name]
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		// A text that people search for.
		return false, fmt.Errorf("failed to parse %s value, error: want true or false: %w", name, provider.ErrInvalid)
	}
	return on, nil
}

// unknown returns the facts that the class leaves to the cluster.
func (p parameters) unknown(i identity) (facts []provider.Fact) {
	if i.kind == webIdentity && i.role == "" {
		facts = append(facts, roleAnnotation)
		if i.audience == "" {
			facts = append(facts, audienceAnnotation)
		}
	}
	if p.values["region"] == "" && p.settings.region == "" {
		facts = append(facts, provider.NodeLabel(regionLabel))
	}
	return facts
}

// regions returns where to read, the primary region first.
func (p parameters) regions(label string) ([]string, error) {
	var all []string
	for _, region := range []string{p.values["region"], p.settings.region, label} {
		if region != "" {
			all = append(all, region)
			break
		}
	}
	switch failover := p.values["failoverRegion"]; {
	case len(all) == 0:
		// A text that people search for.
		return nil, fmt.Errorf("failed to retrieve region from node: set the parameter region, AWS_REGION of the provider, or the label %s of the node", regionLabel)
	case failover == all[0]:
		return nil, fmt.Errorf("%s: failover region cannot be the same as the primary region", failover) // a text that people search for
	case failover != "":
		all = append(all, failover)
	}
	for _, region := range all {
		if !regionName.MatchString(region) {
			return nil, fmt.Errorf("%.80q is no name of an AWS region", region)
		}
	}
	return all, nil
}

// naming returns how an object's name becomes that of its file.
func (p parameters) naming() (func(name string) string, error) {
	translation, ok := p.values["pathTranslation"]
	switch {
	case !ok || translation == "":
		translation = "_"
	case strings.EqualFold(translation, "false"):
		return func(name string) string { return strings.TrimPrefix(name, "/") }, nil
	case len(translation) != 1:
		return nil, errors.New("pathTranslation must be either 'False' or a single character string") // a text that people search for
	}
	return func(name string) string { return strings.ReplaceAll(name, "/", translation) }, nil
}

// An item is one of the parameter objects. What it does not have is ignored,
// as it always was.
type item struct {
	ObjectName         string          `param:"objectName"`
	ObjectType         string          `param:"objectType"`
	ObjectAlias        string          `param:"objectAlias"`
	ObjectVersion      string          `param:"objectVersion"`
	ObjectVersionLabel string          `param:"objectVersionLabel"`
	FilePermission     params.Mode     `param:"filePermission"`
	Encoding           params.Encoding `param:"encoding"`
	Optional           bool            `param:"optional"`
	JMESPath           []jmesItem      `param:"jmesPath"`
	FailoverObject     *failoverItem   `param:"failoverObject"`
	_                  struct{}        `param:"*"`
}

type jmesItem struct {
	Path           string          `param:"path"`
	ObjectAlias    string          `param:"objectAlias"`
	FilePermission params.Mode     `param:"filePermission"`
	Encoding       params.Encoding `param:"encoding"`
	Optional       bool            `param:"optional"`
	_              struct{}        `param:"*"`
}

type failoverItem struct {
	ObjectName         string   `param:"objectName"`
	ObjectVersion      string   `param:"objectVersion"`
	ObjectVersionLabel string   `param:"objectVersionLabel"`
	_                  struct{} `param:"*"`
}

// objects returns the objects of a class; aim says of each where it is.
func (p parameters) objects(mode fs.FileMode) ([]object, error) {
	naming, err := p.naming()
	if err != nil {
		return nil, invalid(err)
	}
	list, err := params.Objects[item](p.values, "objects")
	if err != nil {
		return nil, fmt.Errorf("Failed to load SecretProviderClass: %w", err) // a text that people search for
	}
	objects := make([]object, len(list))
	for i, item := range list {
		if objects[i], err = item.object(naming, mode, p.values["failoverRegion"] != ""); err != nil {
			return nil, fmt.Errorf("objects[%d]: %w: %w", i, err, provider.ErrInvalid)
		}
	}
	return objects, checkFiles(objects)
}

// object checks the item and fills in its defaults.
func (n item) object(naming func(string) string, fallback fs.FileMode, failover bool) (object, error) {
	o := object{
		name: n.ObjectName, version: n.ObjectVersion, label: n.ObjectVersionLabel,
		file: file{mode: n.FilePermission.Or(fallback), encoding: n.Encoding}, optional: n.Optional,
	}
	if n.ObjectName == "" {
		return o, errors.New("Object name must be specified") // a text that people search for
	}
	o.alias = n.ObjectAlias
	o.file.path = naming(n.ObjectName)
	if n.ObjectAlias != "" {
		o.file.path = naming(n.ObjectAlias)
	}
	var err error
	if o.service, err = serviceOf(n.ObjectName, n.ObjectType); err != nil {
		return o, err
	}
	if o.service == parameterStore && n.ObjectVersion != "" && n.ObjectVersionLabel != "" {
		return o, fmt.Errorf("ssm parameters can not specify both objectVersion and objectVersionLabel: %s", n.ObjectName) // a text that people search for
	}
	if o.failover, err = n.failover(o.service, failover); err != nil {
		return o, err
	}
	for i, j := range n.JMESPath {
		e, err := j.extract(naming, o.file.mode)
		if err != nil {
			return o, fmt.Errorf("jmesPath[%d]: %w", i, err)
		}
		o.extracts = append(o.extracts, e)
	}
	return o, nil
}

// failover returns what the object is called in the second region; nil where
// it is called the same. The texts are those that people search for.
func (n item) failover(service service, regions bool) (*target, error) {
	other := n.FailoverObject
	if other == nil || other.ObjectName == "" {
		return nil, nil
	}
	switch {
	case !regions:
		return nil, fmt.Errorf("failover object allowed only when failover region is defined: %s", n.ObjectName)
	case n.ObjectAlias == "":
		return nil, fmt.Errorf("object alias must be specified for objects with failover entries: %s", n.ObjectName)
	case n.ObjectVersion != other.ObjectVersion:
		return nil, fmt.Errorf("object versions must match between primary and failover regions: %s", n.ObjectName)
	case service == parameterStore && other.ObjectVersion != "" && other.ObjectVersionLabel != "":
		return nil, fmt.Errorf("ssm parameters can not specify both objectVersion and objectVersionLabel: %s", other.ObjectName)
	}
	_, err := serviceOf(other.ObjectName, string(service))
	return &target{other.ObjectName, other.ObjectVersion, other.ObjectVersionLabel}, err
}

// checkFiles returns an error unless one volume can hold the files of all
// objects.
func checkFiles(objects []object) error {
	made := make(map[string]maker)
	order := make([]file, 0, len(objects))
	for i, o := range objects {
		for next, f := range o.files() {
			next.at = fmt.Sprintf("objects[%d]%s", i, next.at)
			if first, taken := made[f.path]; taken {
				return first.collision(next, f.path)
			}
			made[f.path] = next
			order = append(order, f)
		}
	}
	if len(order) > maxFiles {
		return fmt.Errorf("the objects make %d files, and the limit is %d: %w", len(order), maxFiles, provider.ErrInvalid)
	}
	return provider.CheckFiles(func(yield func(string, fs.FileMode) bool) {
		for _, f := range order {
			if !yield(f.path, f.mode) {
				return
			}
		}
	})
}

// A maker is what a file of the volume is made of.
type maker struct{ at, name, alias string }

// collision says that two make one file. It begins with texts that people
// search for.
func (m maker) collision(other maker, path string) error {
	text := "two objects make one file"
	switch {
	case m.alias != "" && m.alias == other.alias:
		text = "found duplicate object alias " + m.alias
	case m.name == other.name:
		text = "found descriptor with duplicate object name " + m.name
	}
	return fmt.Errorf("%s: %s (%s) and %s (%s) both make the file %q: give one of them another objectAlias: %w",
		text, m.at, m.name, other.at, other.name, path, provider.ErrInvalid)
}

// aim says of each object where it is in each region, and lets equal reads of
// objects be one.
func (q *query) aim() error {
	byTargets := make(map[string]*read)
	for i := range q.objects {
		o := &q.objects[i]
		targets, err := o.targets(q.regions)
		if err != nil {
			return fmt.Errorf("objects[%d]: %w", i, err)
		}
		key := fmt.Sprintf("%s%q", o.service, targets)
		r := byTargets[key]
		if r == nil {
			r = &read{index: len(q.reads), service: o.service, targets: targets, optional: true, file: o.file.path}
			byTargets[key] = r
			q.reads = append(q.reads, r)
		}
		r.optional = r.optional && o.optional
		o.read = r
	}
	return nil
}
