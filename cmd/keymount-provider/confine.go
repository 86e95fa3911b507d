package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/sandbox"
	"github.com/keymount/keymount/providers"
)

// enter gives up what serving does not need, once all sockets are there, and
// says what the process runs with.
func (s settings) enter(set *providers.Set) error {
	policy := &sandbox.Policy{
		Calls: sandbox.Provider,
		Files: &sandbox.Files{
			Read:  slices.Concat(set.Files(s.names), authorities(), s.readable),
			Write: append(s.logs, s.socketFolders()...),
		},
	}
	if !s.confined {
		policy = nil
	}
	state, err := sandbox.Enter(policy)
	if err == nil {
		klog.InfoS("Process runs with", state.Log()...)
	}
	return err
}

// socketFolders returns where sockets are removed at the end.
func (s settings) socketFolders() []string {
	if s.profiles == "" {
		return []string{s.socketDir}
	}
	return []string{s.socketDir, filepath.Dir(s.profiles)}
}

// authorities returns where Go finds certificate authorities instead of in the
// system's files.
func authorities() []string {
	return append(filepath.SplitList(os.Getenv("SSL_CERT_DIR")), filepath.SplitList(os.Getenv("SSL_CERT_FILE"))...)
}

// logFolders returns where the flags let klog write.
func logFolders(logging *flag.FlagSet) (folders []string) {
	if folder := logging.Lookup("log_dir").Value.String(); folder != "" {
		folders = append(folders, folder)
	}
	if file := logging.Lookup("log_file").Value.String(); file != "" {
		folders = append(folders, filepath.Dir(file))
	}
	return folders
}
