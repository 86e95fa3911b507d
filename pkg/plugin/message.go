package plugin

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/grpc/metadata"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// encodeRequest writes what v1alpha1 can say of a request; requestMetadata
// says the rest.
func encodeRequest(req *provider.Request, withholdVersions bool) (*v1alpha1.MountRequest, error) {
	attributes, err := encodeAttributes(req)
	if err != nil {
		return nil, err
	}
	secrets, err := encodeSecrets(req.Credentials)
	if err != nil {
		return nil, err
	}
	message := &v1alpha1.MountRequest{
		Attributes: attributes,
		Secrets:    secrets,
		TargetPath: req.Dir,
		Permission: strconv.FormatUint(uint64(req.Mode.Perm()), 10),
	}
	if !withholdVersions {
		message.CurrentObjectVersion = encodeVersions(req.Held.Versions)
		message.CurrentObjectVersion = slices.DeleteFunc(message.CurrentObjectVersion, unknown)
	}
	return message, nil
}

// unknown reports whether a provider must not be told that it is held.
func unknown(v *v1alpha1.ObjectVersion) bool { return v.Version == "" }

// decodeRequest is the inverse of encodeRequest and requestMetadata.
func decodeRequest(message *v1alpha1.MountRequest, md metadata.MD) (*provider.Request, error) {
	lease, err := decodeLease(md)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, provider.ErrInvalid)
	}
	req := &provider.Request{
		Class: first(md, metaClass),
		Held:  provider.Held{Versions: decodeVersions(message.GetCurrentObjectVersion()), Lease: lease},
		Dir:   message.GetTargetPath(),
	}
	if req.Facts, err = decodeFacts(md); err != nil {
		return nil, err
	}
	if err := decodeAttributes(message.GetAttributes(), req); err != nil {
		return nil, err
	}
	if req.Credentials, err = decodeSecrets(message.GetSecrets()); err != nil {
		return nil, err
	}
	if req.Mode, err = decodePermission(message.GetPermission()); err != nil {
		return nil, err
	}
	return req, nil
}

// decodePermission reads decimal digits; none mean 0644.
func decodePermission(text string) (fs.FileMode, error) {
	if text == "" {
		return 0o644, nil
	}
	mode, err := strconv.ParseUint(text, 10, 32)
	if err != nil || mode > uint64(fs.ModePerm) {
		return 0, fmt.Errorf("permission %.20q: want a decimal number from 0 to 511: %w", text, provider.ErrInvalid)
	}
	return fs.FileMode(mode), nil
}

// encodeReply writes what v1alpha1 can say of a valid bundle; replyMetadata says
// the rest. Files without a mode get the given one, which upstream's driver
// does not see to.
func encodeReply(bundle *provider.Bundle, mode fs.FileMode) *v1alpha1.MountResponse {
	reply := &v1alpha1.MountResponse{ObjectVersion: encodeVersions(bundle.Versions)}
	if bundle.Unchanged {
		return reply
	}
	for _, f := range bundle.Files {
		file := &v1alpha1.File{Path: f.Path, Mode: int32(f.Mode), Contents: f.Data.Reveal()}
		if file.Mode == 0 {
			file.Mode = int32(mode)
		}
		reply.Files = append(reply.Files, file)
	}
	return reply
}

// maxFiles is more than any volume can hold. It bounds what is made of a reply
// whose files have hardly any bytes.
const maxFiles = 8192

// decodeReply reads a reply that carries no error, and checks all of it.
// Files without a mode get the given one. The error shows what the provider
// sent and is fit to be printed only once it is clean.
func decodeReply(reply *v1alpha1.MountResponse, md metadata.MD, mode fs.FileMode) (*provider.Bundle, error) {
	if n := len(reply.GetFiles()); n > maxFiles {
		return nil, fmt.Errorf("it has %d files: want at most %d", n, maxFiles)
	}
	bundle := &provider.Bundle{
		Versions:  decodeVersions(reply.GetObjectVersion()),
		Unchanged: len(reply.GetFiles()) == 0 && first(md, metaEmpty) != "true",
	}
	for _, f := range reply.GetFiles() {
		if f.GetMode() < 0 || f.GetMode() > int32(fs.ModePerm) {
			return nil, fmt.Errorf("file %.256q has the mode %d: want 0 to 511", f.GetPath(), f.GetMode())
		}
		file := provider.File{Path: f.GetPath(), Mode: fs.FileMode(f.GetMode()), Data: secret.Take(f.GetContents())}
		if file.Mode == 0 {
			file.Mode = mode
		}
		bundle.Files = append(bundle.Files, file)
	}
	var err error
	if bundle.Lease, err = decodeLease(md); err != nil {
		return nil, err
	}
	if bundle.Refresh, err = decodeTime(md, metaRefresh); err != nil {
		return nil, err
	}
	if bundle.Expires, err = decodeTime(md, metaExpires); err != nil {
		return nil, err
	}
	if bundle.Warnings, err = decodeWarnings(md); err != nil {
		return nil, err
	}
	return bundle, bundle.Validate()
}

// encodeVersions returns the versions in the order of their IDs.
func encodeVersions(versions provider.Versions) []*v1alpha1.ObjectVersion {
	var list []*v1alpha1.ObjectVersion
	for _, id := range slices.Sorted(maps.Keys(versions)) {
		list = append(list, &v1alpha1.ObjectVersion{Id: id, Version: versions[id]})
	}
	return list
}

// decodeVersions returns the versions by ID. Of an ID that comes twice the
// last wins, as upstream has it: there are providers that repeat themselves.
func decodeVersions(list []*v1alpha1.ObjectVersion) provider.Versions {
	if len(list) == 0 {
		return nil
	}
	versions := make(provider.Versions, len(list))
	for _, v := range list {
		versions[v.GetId()] = v.GetVersion()
	}
	return versions
}
