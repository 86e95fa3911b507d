package aws

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
	"github.com/keymount/keymount/pkg/secret"
)

// A service holds secrets. Its name is the objectType of a class.
type service string

const (
	secretsManager service = "secretsmanager"
	parameterStore service = "ssmparameter"
)

// arnService is what the service is called in ARNs.
func (s service) arnService() string {
	if s == parameterStore {
		return "ssm"
	}
	return string(s)
}

const arnPrefix = "arn:"

// serviceOf returns the service that holds an object. The texts are those that
// people search for.
func serviceOf(name, objectType string) (service, error) {
	if !strings.HasPrefix(name, arnPrefix) {
		switch s := service(objectType); {
		case s == "":
			return "", fmt.Errorf("Must use objectType when a full ARN is not specified: %s", name)
		case s != secretsManager && s != parameterStore:
			return "", fmt.Errorf("Invalid objectType: %s: want %s or %s", objectType, secretsManager, parameterStore)
		default:
			return s, nil
		}
	}
	parsed, err := arn.Parse(name)
	if err != nil {
		return "", fmt.Errorf("Invalid ARN format in object name: %s", name)
	}
	s := service(parsed.Service)
	if parsed.Service == parameterStore.arnService() {
		s = parameterStore
	}
	switch {
	case s.arnService() != parsed.Service || s != secretsManager && s != parameterStore:
		return "", fmt.Errorf("Invalid service in ARN: %s", parsed.Service)
	case objectType != "" && service(objectType) != s:
		return "", fmt.Errorf("objectType does not match ARN: %s", name)
	default:
		return s, nil
	}
}

// A target is what to ask a service of one region for.
type target struct{ name, version, label string }

// in returns an error unless the target is in the region.
func (t target) in(region string) error {
	if !strings.HasPrefix(t.name, arnPrefix) {
		return nil
	}
	if parsed, err := arn.Parse(t.name); err != nil || parsed.Region != region {
		return fmt.Errorf("ARN region must match region %s: %s", region, t.name) // a text that people search for
	}
	return nil
}

// A read is what is asked for, whichever objects are made of it.
type read struct {
	index    int
	service  service
	targets  []target // one for each region
	optional bool     // it need not be there
	file     string   // of an object that is made of it
}

// pinned returns the version that the read names, which never changes; empty
// if it names none.
func (r *read) pinned() string {
	if r.targets[0].label != "" {
		return ""
	}
	return r.targets[0].version
}

// known reports whether what the volume holds is what the read would return,
// whenever it is made.
func (r *read) known(held provider.Versions) bool {
	version, pin := held[r.file], r.pinned()
	if pin == "" {
		return false
	}
	return version == pin || r.service == parameterStore && strings.HasPrefix(version, pin+versionSeparator)
}

// An object is one entry of a class.
type object struct {
	name, alias    string
	service        service
	version, label string
	failover       *target // what it is called in the second region; nil: the same
	file           file
	extracts       []extract
	optional       bool
	read           *read
}

// A file is one that an object makes.
type file struct {
	path     string
	mode     fs.FileMode
	encoding params.Encoding
}

// files yields the files of the object and where each is said.
func (o object) files() iter.Seq2[maker, file] {
	return func(yield func(maker, file) bool) {
		if !yield(maker{"", o.name, o.alias}, o.file) {
			return
		}
		for i, e := range o.extracts {
			if !yield(maker{fmt.Sprintf(".jmesPath[%d]", i), o.name, e.alias}, e.file) {
				return
			}
		}
	}
}

// targets returns where the object is in each region.
func (o object) targets(regions []string) ([]target, error) {
	all := make([]target, len(regions))
	for i, region := range regions {
		all[i] = target{o.name, o.version, o.label}
		if i > 0 && o.failover != nil {
			all[i] = *o.failover
		}
		if err := all[i].in(region); err != nil {
			if i > 0 && o.failover == nil {
				err = fmt.Errorf("%w: say in failoverObject what it is there", err)
			}
			return nil, err
		}
	}
	return all, nil
}

// An answer is what a service says of a read.
type answer struct {
	version string
	data    *secret.Value // nil: only the version is known
	absent  bool          // it is not there, and need not be
}

// absentVersion is the version of an object that is not there and need not be.
const absentVersion = "absent"

// versionSeparator is between the version of a parameter and when that was
// written: a parameter that is deleted and made anew begins at 1 again.
const versionSeparator = "@"

func parameterVersion(number, milliseconds int64) string {
	return strconv.FormatInt(number, 10) + versionSeparator + strconv.FormatInt(milliseconds, 10)
}

// content returns the files of the object.
func (o object) content(a answer) ([]provider.File, error) {
	if a.absent {
		return nil, nil
	}
	data, err := o.file.decode(*a.data)
	if err != nil {
		return nil, err
	}
	files := []provider.File{{Path: o.file.path, Mode: o.file.mode, Data: data}}
	if len(o.extracts) == 0 {
		return files, nil
	}
	document, err := parseDocument(*a.data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, o.name)
	}
	for _, e := range o.extracts {
		found, err := e.from(document)
		switch {
		case errors.Is(err, provider.ErrNotFound) && e.optional:
			continue
		case err != nil:
			return nil, err
		}
		if found, err = e.file.decode(found); err != nil {
			return nil, err
		}
		files = append(files, provider.File{Path: e.file.path, Mode: e.file.mode, Data: found})
	}
	return files, nil
}

// decode returns the bytes that the stored text stands for.
func (f file) decode(stored secret.Value) (secret.Value, error) {
	data, err := f.encoding.Decode(stored.Reveal())
	if err != nil {
		return secret.Value{}, fmt.Errorf("file %q: %w", f.path, err)
	}
	return secret.New(data), nil
}
