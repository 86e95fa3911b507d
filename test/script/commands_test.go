package script

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/joho/godotenv"
	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/yaml"
)

// patience is how long anything may take that happens by itself.
const patience = 30 * time.Second

// eventually calls ok until it returns nil.
func eventually(ok func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", patience, err)
		}
	}
}

// sigterm asks a command that runs in the background to end:
//
//	sigterm COMMAND
func sigterm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sigterm COMMAND")
	}
	for _, cmd := range ts.BackgroundCmds() {
		if filepath.Base(cmd.Path) == args[0] {
			ts.Check(cmd.Process.Signal(syscall.SIGTERM))
			return
		}
	}
	ts.Fatalf("no %s runs in the background", args[0])
}

// store replaces a file at once, as one should in a store:
//
//	store FILE TEXT
func store(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: store FILE TEXT")
	}
	file := ts.MkAbs(args[0])
	fresh := ts.MkAbs("fresh")
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o700))
	ts.Check(os.WriteFile(fresh, []byte(args[1]), 0o600))
	ts.Check(os.Rename(fresh, file))
}

// shows waits until a file has exactly this mode and text:
//
//	shows FILE MODE TEXT
func shows(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: shows FILE MODE TEXT")
	}
	mode, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	ts.Check(eventually(func() error {
		file := ts.MkAbs(args[0])
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		switch {
		case err != nil:
			return err
		case info.Mode() != fs.FileMode(mode):
			return fmt.Errorf("%s has the mode %#o, want %#o", args[0], info.Mode(), mode)
		case string(text) != args[2]:
			return fmt.Errorf("%s has other text (%d bytes) than wanted (%d bytes)", args[0], len(text), len(args[2]))
		default:
			return nil
		}
	}))
}

// awaits waits until a file has a line that matches a regular expression:
//
//	awaits FILE PATTERN
func awaits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: awaits FILE PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	ts.Check(eventually(func() error {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && !pattern.Match(text) {
			err = fmt.Errorf("no match for %q in %s:\n%s", pattern, args[0], text)
		}
		return err
	}))
}

// matches compares a file, stdout or stderr with a pattern, see match:
//
//	[!] matches FILE PATTERNFILE
func matches(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: matches FILE PATTERNFILE")
	}
	text, pattern := ts.ReadFile(args[0]), ts.ReadFile(args[1])
	if match(pattern, text) == neg {
		ts.Fatalf("%s against the pattern %s: match is %v\n%s", args[0], args[1], !neg, text)
	}
}

// discloses reports whether the output of the last command has anything of
// the secrets in a folder:
//
//	[!] discloses FOLDER
func discloses(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: discloses FOLDER")
	}
	secrets, err := plaintexts(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(secrets) == 0 {
		ts.Fatalf("no secrets in %s", args[0])
	}
	output := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	var found []string
	for _, secret := range secrets {
		if strings.Contains(output, secret) {
			found = append(found, secret)
		}
	}
	switch {
	case len(output) == 0:
		ts.Fatalf("there is no output to search")
	case neg && len(found) > 0:
		ts.Fatalf("the output has %q", found)
	case !neg && len(found) < len(secrets):
		ts.Fatalf("the output has %q only", found)
	}
}

// plaintexts returns the secrets below a folder: the values of documents, the
// lines of other files, and what base64 stands for.
func plaintexts(folder string) (secrets []string, err error) {
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		values := make(map[string]string)
		switch filepath.Ext(path) {
		case ".json", ".yaml":
			err = yaml.Unmarshal(text, &values)
		case ".env":
			values, err = godotenv.UnmarshalBytes(text)
		default:
			for i, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
				values[strconv.Itoa(i)] = string(line)
			}
			if decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err == nil {
				values["decoded"] = string(decoded)
			}
		}
		for _, value := range values {
			secrets = append(secrets, value)
		}
		return err
	})
	return secrets, err
}
