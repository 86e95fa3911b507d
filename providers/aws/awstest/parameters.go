package awstest

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A parameter is one of Parameter Store.
type parameter struct {
	name     string
	versions []*parameterVersion
}

type parameterVersion struct {
	number   int64
	value    string
	kind     string // String, StringList or SecureString
	dataType string
	labels   []string
	modified time.Time
}

// PutParameter makes a SecureString, or a new version of whatever there is.
func (r *Region) PutParameter(name, value string) (version int64) {
	r.server.t.Helper()
	r.do("put parameter "+name, func(c *call) error {
		in := &putParameterInput{Name: name, Value: value, Tier: "Intelligent-Tiering", Overwrite: true}
		if c.parameters[name] == nil {
			in.Kind = "SecureString"
		}
		answer, err := putParameter(c, in)
		if err == nil {
			version = answer.(putParameterAnswer).Version
		}
		return err
	})
	return version
}

// LabelParameter moves a label to a version.
func (r *Region) LabelParameter(name string, version int64, label string) {
	r.server.t.Helper()
	r.do("label parameter "+name, func(c *call) error {
		answer, err := labelParameterVersion(c, &labelInput{Name: name, Version: version, Labels: []string{label}})
		if labelled, ok := answer.(labelAnswer); ok && len(labelled.Invalid) > 0 {
			return refuse("InvalidLabels", "%s", label)
		}
		return err
	})
}

// DeleteParameter deletes a parameter. One that is made of its name later
// begins at version 1 again.
func (r *Region) DeleteParameter(name string) {
	r.server.t.Helper()
	r.do("delete parameter "+name, func(c *call) error { return errorOf(deleteParameter(c, &parameterInput{Name: name})) })
}

// A reference is how a request calls a parameter.
type reference struct {
	name     string // as it would be in an ARN: without a slash at the beginning
	byARN    bool
	selector string // version or label; empty: the newest version
}

// refer takes a name or an ARN apart, both perhaps with a selector.
func (r *Region) refer(given string) reference {
	var ref reference
	ref.name, ref.byARN = strings.CutPrefix(given, r.arn("ssm", "parameter/"))
	if ref.byARN || !strings.HasPrefix(given, "arn:") { // else it is in another region or account
		ref.name, ref.selector, _ = strings.Cut(ref.name, ":")
	}
	return ref
}

// parameter returns the parameter that a reference means, if the caller may do
// that; nil if there is none.
func (c *call) parameter(operation string, ref reference) (*parameter, error) {
	resource := strings.TrimPrefix(ref.name, "/")
	name := ref.name
	p := c.parameters[name]
	if p == nil && ref.byARN {
		p = c.parameters["/"+name]
	}
	if p != nil {
		name = p.name
	}
	return p, c.allow("ssm:"+operation, name, c.arn("ssm", "parameter/"+resource))
}

// newest returns the version that is meant without a selector.
func (p *parameter) newest() *parameterVersion { return p.versions[len(p.versions)-1] }

// chosen returns the version that a selector means, or nil.
func (p *parameter) chosen(selector string) *parameterVersion {
	if selector == "" {
		return p.newest()
	}
	number, err := strconv.ParseInt(selector, 10, 64)
	for _, v := range p.versions {
		if err == nil && v.number == number || err != nil && slices.Contains(v.labels, selector) {
			return v
		}
	}
	return nil
}

// label moves the label to a version.
func (p *parameter) label(label string, to *parameterVersion) {
	for _, v := range p.versions {
		v.labels = slices.DeleteFunc(v.labels, func(l string) bool { return l == label })
	}
	to.labels = append(to.labels, label)
}

var (
	parameterName  = regexp.MustCompile(`^[a-zA-Z0-9_.\-/]+$`)
	parameterLabel = regexp.MustCompile(`^[a-zA-Z_.\-][a-zA-Z0-9_.\-]*$`)
	reservedName   = regexp.MustCompile(`(?i)^/?(aws|ssm)`)
)

// validName returns an error unless a parameter may have the name.
func validName(name string) error {
	switch {
	case !parameterName.MatchString(name) || reservedName.MatchString(name) || strings.HasSuffix(name, "/"):
		return refuse("ValidationException", "Parameter name: can't be prefixed with \"ssm\" (case-insensitive). If formed as a path, it can consist of sub-paths "+
			"divided by slash symbol; each sub-path can be formed as a mix of letters, numbers and the following 3 symbols .-_")
	case strings.Contains(name, "/") && name[0] != '/':
		return refuse("ValidationException", "Parameter name must be a fully qualified name.")
	case strings.Count(name, "/") > 15:
		return refuse("HierarchyLevelLimitExceededException", "Parameter name can't have a hierarchy of more than 15 levels.")
	}
	return nil
}
