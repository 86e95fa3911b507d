package awstest

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func parameterStore() *service {
	return &service{
		name: "ssm",
		operations: map[string]operation{
			"DeleteParameter":       op(deleteParameter),
			"GetParameter":          op(getParameter),
			"GetParameters":         op(getParameters),
			"GetParametersByPath":   op(getParametersByPath),
			"LabelParameterVersion": op(labelParameterVersion),
			"PutParameter":          op(putParameter),
		},
		write:  writeJSON,
		refuse: writeJSONRefusal,
		outage: &refusal{http.StatusServiceUnavailable, "InternalServerError", "An error occurred on the server side."},
	}
}

const (
	standardSize = 4096
	advancedSize = 8192
	maxVersions  = 100
	maxLabels    = 10 // of a version
)

type putParameterInput struct {
	Name      string `json:"Name" need:"yes" len:"1-2048"`
	Value     string `json:"Value" need:"yes" secret:"yes"`
	Kind      string `json:"Type" oneof:"SecureString StringList String"`
	Key       string `json:"KeyId" len:"1-256"`
	Text      string `json:"Description" len:"0-1024"`
	Overwrite bool   `json:"Overwrite"`
	Tier      string `json:"Tier" oneof:"Standard Advanced Intelligent-Tiering"`
	DataType  string `json:"DataType" len:"0-128"`
	Tags      []tag  `json:"Tags"`
}

type putParameterAnswer struct {
	Version int64  `json:"Version"`
	Tier    string `json:"Tier"`
}

func putParameter(c *call, in *putParameterInput) (any, error) {
	p, err := c.parameter("PutParameter", reference{name: in.Name})
	if err != nil {
		return nil, err
	}
	if err := validName(in.Name); err != nil {
		return nil, err
	}
	tier, err := tierOf(in)
	kind := in.Kind
	switch {
	case err != nil:
		return nil, err
	case p == nil && kind == "":
		return nil, refuse("ValidationException", "A parameter type is required when you create a parameter.")
	case p == nil:
		p = &parameter{name: in.Name}
		c.parameters[in.Name] = p
	case !in.Overwrite:
		return nil, refuse("ParameterAlreadyExists", "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
	case in.Tags != nil:
		return nil, refuse("ValidationException", "Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please remove overwrite flag. To update tags for an existing parameter, please use AddTagsToResource or RemoveTagsFromResource.")
	case kind == "":
		kind = p.newest().kind
	case kind != p.newest().kind:
		return nil, refuse("HierarchyTypeMismatchException", "Parameter Store does not support changing a parameter type.")
	}
	if len(p.versions) == maxVersions {
		if len(p.versions[0].labels) > 0 {
			return nil, refuse("ParameterMaxVersionLimitExceeded", "You attempted to create a new version of %s by calling the PutParameter API with the overwrite flag. "+
				"Version %d, the oldest version, can't be deleted because it has a label associated with it. Move the label to another version of the parameter, and try again.", p.name, p.versions[0].number)
		}
		p.versions = p.versions[1:]
	}
	v := &parameterVersion{number: 1, value: in.Value, kind: kind, dataType: cmp.Or(in.DataType, "text"), modified: c.now}
	if len(p.versions) > 0 {
		v.number = p.newest().number + 1
	}
	p.versions = append(p.versions, v)
	return putParameterAnswer{v.number, tier}, nil
}

// tierOf returns the tier that the size of a value needs, if it may have that.
func tierOf(in *putParameterInput) (string, error) {
	const more = "For more information, see https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html"
	size := len(in.Value)
	switch {
	case size == 0:
		return "", refuse("ValidationException", "1 validation error detected: Value '' at 'value' failed to satisfy constraint: Member must have length greater than or equal to 1.")
	case size > advancedSize:
		return "", refuse("ValidationException", "Advanced tier parameters support a maximum parameter value of %d characters.", advancedSize)
	case size > standardSize && cmp.Or(in.Tier, "Standard") == "Standard":
		return "", refuse("ValidationException", "Standard tier parameters support a maximum parameter value of %d characters. "+
			"To create a larger parameter value, upgrade the parameter to use the advanced-parameter tier. %s", standardSize, more)
	case size > standardSize || in.Tier == "Advanced":
		return "Advanced", nil
	}
	return "Standard", nil
}

type foundParameter struct {
	ARN      string `json:"ARN"`
	DataType string `json:"DataType"`
	Modified epoch  `json:"LastModifiedDate"`
	Name     string `json:"Name"`
	Selector string `json:"Selector,omitempty"`
	Kind     string `json:"Type"`
	Value    string `json:"Value"`
	Version  int64  `json:"Version"`
}

// show returns a version as answers do.
func (c *call) show(p *parameter, v *parameterVersion, selector string, decrypt bool) foundParameter {
	f := foundParameter{
		ARN: c.arn("ssm", "parameter/"+strings.TrimPrefix(p.name, "/")), DataType: v.dataType, Modified: epoch(v.modified),
		Name: p.name, Kind: v.kind, Value: v.value, Version: v.number,
	}
	if selector != "" {
		f.Selector = ":" + selector
	}
	if v.kind == "SecureString" && !decrypt {
		sum := sha256.Sum256([]byte(v.value))
		f.Value = "AQICAH" + base64.StdEncoding.EncodeToString(sum[:])
	}
	return f
}

type getParameterInput struct {
	Name    string `json:"Name" need:"yes" len:"1-2048"`
	Decrypt bool   `json:"WithDecryption"`
}

func getParameter(c *call, in *getParameterInput) (any, error) {
	ref := c.refer(in.Name)
	p, err := c.parameter("GetParameter", ref)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, refuse("ParameterNotFound", "")
	}
	v := p.chosen(ref.selector)
	if v == nil {
		return nil, noVersion(ref.selector, p)
	}
	return map[string]foundParameter{"Parameter": c.show(p, v, ref.selector, in.Decrypt)}, nil
}

func noVersion(selector string, p *parameter) error {
	return refuse("ParameterVersionNotFound", "Systems Manager could not find version %s of %s. Verify the version and try again.", selector, p.name)
}

type getParametersInput struct {
	Names   []string `json:"Names" need:"yes" count:"1-10" len:"1-2048"`
	Decrypt bool     `json:"WithDecryption"`
}

func getParameters(c *call, in *getParametersInput) (any, error) {
	answer := struct {
		Found   []foundParameter `json:"Parameters"`
		Invalid []string         `json:"InvalidParameters"`
	}{[]foundParameter{}, []string{}}
	asked := map[string]bool{}
	for _, name := range in.Names {
		ref := c.refer(name)
		p, err := c.parameter("GetParameters", ref)
		if err != nil {
			return nil, err
		}
		key := strings.TrimPrefix(ref.name, "/")
		if asked[key] {
			return nil, refuse("ValidationException", "1 validation error detected: Value '[%s]' at 'names' failed to satisfy constraint: Member must not have duplicate names",
				strings.Join(in.Names, ", "))
		}
		asked[key] = true
		if p == nil || p.chosen(ref.selector) == nil {
			answer.Invalid = append(answer.Invalid, name)
			continue
		}
		answer.Found = append(answer.Found, c.show(p, p.chosen(ref.selector), ref.selector, in.Decrypt))
	}
	slices.SortFunc(answer.Found, func(a, b foundParameter) int { return strings.Compare(a.Name, b.Name) })
	return answer, nil
}

type byPathInput struct {
	Path      string `json:"Path" need:"yes" len:"1-2048"`
	Recursive bool   `json:"Recursive"`
	Decrypt   bool   `json:"WithDecryption"`
	Most      int    `json:"MaxResults" len:"1-10"`
	Next      string `json:"NextToken"`
}

func getParametersByPath(c *call, in *byPathInput) (any, error) {
	root := strings.TrimSuffix(in.Path, "/")
	if err := c.allow("ssm:GetParametersByPath", root, c.arn("ssm", "parameter"+root)); err != nil {
		return nil, err
	}
	if in.Path[0] != '/' {
		return nil, refuse("ValidationException", "The parameter doesn't meet the parameter name requirements. The parameter name must begin with a forward slash \"/\". "+
			"It can't be prefixed with \"aws\" or \"ssm\" (case-insensitive). It must use only letters, numbers, or the following symbols: . (period), - (hyphen), _ (underscore). Special characters are not allowed. "+
			"All sub-paths, if specified, must use the forward slash symbol \"/\". Valid example: /get/parameters2-/by1./path0_.")
	}
	var found []*parameter
	for _, name := range slices.Sorted(maps.Keys(c.parameters)) {
		rest, ok := strings.CutPrefix(name, root+"/")
		if !ok && root == "" {
			rest, ok = name, true
		}
		if ok && (in.Recursive || !strings.Contains(rest, "/")) {
			found = append(found, c.parameters[name])
		}
	}
	found, next, err := page(found, in.Next, cmp.Or(in.Most, 10))
	if err != nil {
		return nil, refuse("InvalidNextToken", "The specified token isn't valid.")
	}
	answer := struct {
		Found []foundParameter `json:"Parameters"`
		Next  string           `json:"NextToken,omitempty"`
	}{[]foundParameter{}, next}
	for _, p := range found {
		answer.Found = append(answer.Found, c.show(p, p.newest(), "", in.Decrypt))
	}
	return answer, nil
}

type labelInput struct {
	Name    string   `json:"Name" need:"yes" len:"1-2048"`
	Version int64    `json:"ParameterVersion"`
	Labels  []string `json:"Labels" need:"yes" count:"1-10" len:"1-100"`
}

type labelAnswer struct {
	Invalid []string `json:"InvalidLabels"`
	Version int64    `json:"ParameterVersion"`
}

func labelParameterVersion(c *call, in *labelInput) (any, error) {
	p, err := c.parameter("LabelParameterVersion", reference{name: in.Name})
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, refuse("ParameterNotFound", "")
	}
	v := p.newest()
	if in.Version != 0 {
		i := slices.IndexFunc(p.versions, func(v *parameterVersion) bool { return v.number == in.Version })
		if i < 0 {
			return nil, refuse("ParameterVersionNotFound", "Systems Manager could not find version %d of %s. Verify the version and try again.", in.Version, p.name)
		}
		v = p.versions[i]
	}
	answer := labelAnswer{[]string{}, v.number}
	var labels []string
	for _, label := range in.Labels {
		switch {
		case !parameterLabel.MatchString(label) || reservedName.MatchString(label):
			answer.Invalid = append(answer.Invalid, label)
		case !slices.Contains(v.labels, label):
			labels = append(labels, label)
		}
	}
	if len(v.labels)+len(labels) > maxLabels {
		return nil, refuse("ParameterVersionLabelLimitExceeded", "An error occurred (ParameterVersionLabelLimitExceeded) when calling the LabelParameterVersion operation: "+
			"A parameter version can have maximum 10 labels. Move one or more labels to another version and try again.")
	}
	for _, label := range labels {
		p.label(label, v)
	}
	return answer, nil
}

type parameterInput struct {
	Name string `json:"Name" need:"yes" len:"1-2048"`
}

func deleteParameter(c *call, in *parameterInput) (any, error) {
	p, err := c.parameter("DeleteParameter", reference{name: in.Name})
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, refuse("ParameterNotFound", "")
	}
	delete(c.parameters, p.name)
	return struct{}{}, nil
}
