package providertest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"
)

// A canary is a random text that a secret contains, and nothing else should.
type canary string

// newCanary returns a text that occurs nowhere yet.
func newCanary() canary { return canary("canary-" + rand.Text()) }

// minCanary is the length below which a text might occur by chance.
const minCanary = 12

// traceOf returns the first form in which text shows the canary; empty if it
// shows none.
func (c canary) traceOf(text string) string {
	forms := map[string]string{
		"raw":           string(c),
		"hex":           hex.EncodeToString([]byte(c)),
		"upper hex":     strings.ToUpper(hex.EncodeToString([]byte(c))),
		"decimal bytes": strings.Trim(fmt.Sprint([]byte(c)), "[]"),
		"quoted bytes":  strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(c)), "[]byte{"), "}"),
	}
	for shift := range 3 {
		forms[fmt.Sprintf("base64 at %d", shift)] = alignedBase64(c, shift, base64.StdEncoding)
		forms[fmt.Sprintf("URL base64 at %d", shift)] = alignedBase64(c, shift, base64.URLEncoding)
	}
	for name, form := range forms {
		if strings.Contains(text, form) {
			return name
		}
	}
	return ""
}

// alignedBase64 returns the part of an encoding that shows c, and only c, when
// shift bytes (modulo 3) come before it.
func alignedBase64(c canary, shift int, encoding *base64.Encoding) string {
	skip := (3 - shift) % 3
	whole := (len(c) - skip) / 3 * 3
	return encoding.EncodeToString([]byte(c)[skip : skip+whole])
}

// A transcript collects what a provider says outside of files, and the
// canaries that it must not say. It is safe for concurrent use.
type transcript struct {
	mu       sync.Mutex
	canaries []canary
	sayings  []saying
}

type saying struct{ where, text string }

// forbid adds a text that must not be said; too short ones are left out.
func (tr *transcript) forbid(c canary) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(c) >= minCanary {
		tr.canaries = append(tr.canaries, c)
	}
}

// say adds what was said.
func (tr *transcript) say(where, text string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.sayings = append(tr.sayings, saying{where, text})
}

// check fails t for each place that shows a canary, without showing it again.
func (tr *transcript) check(t testing.TB) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, s := range tr.sayings {
		for _, c := range tr.canaries {
			if form := c.traceOf(s.text); form != "" {
				t.Errorf("%s shows a secret (%s form)", s.where, form)
			}
		}
	}
}

// captureLogs collects what klog at -v=10 and the standard logger (which
// slog's default also writes to) say until the returned function is called.
func captureLogs() (stop func() string) {
	state := klog.CaptureState()
	oldOutput, out := log.Writer(), &lockedBuffer{}
	klog.LogToStderr(false)
	klog.SetOutput(out)
	var level klog.Level
	_ = level.Set("10")
	log.SetOutput(out)
	return func() string {
		klog.Flush()
		log.SetOutput(oldOutput)
		state.Restore()
		return out.String()
	}
}

// A lockedBuffer is a bytes.Buffer for many writers.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
