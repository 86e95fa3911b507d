package kube

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
)

// warned is what a pod was told of warnings.
type warned struct {
	text string    // of what is still true; "" if nothing is
	at   time.Time // when something was told last
}

// tellWarned tells what has expired of what a volume serves, unless that was
// told, or something was a moment ago: then it is told at a later turn.
func (e *Events) tellWarned(t Turn, was warned) warned {
	if t.Result.Bundle == nil {
		return was
	}
	text := expired(t.Result.Bundle.Warnings)
	switch {
	case text == "":
		return warned{at: was.at}
	case text == was.text, time.Since(was.at) < eventGap:
		return was
	}
	klog.InfoS("Volume serves what has expired", "volume", t.Volume, "pod", klog.KRef(t.Pod.Namespace, t.Pod.Name), "class", t.Class, "message", oneLine(text))
	e.Event(t.Pod, corev1.EventTypeWarning, reasonExpired, fmt.Sprintf("class %s: %s", t.Class, text))
	return warned{text, time.Now()}
}

// expired joins what is said of expired objects, the same in any order.
func expired(warnings []provider.Warning) string {
	var messages []string
	for _, w := range warnings {
		if w.Reason == provider.Expired {
			messages = append(messages, w.Message)
		}
	}
	slices.Sort(messages)
	return strings.Join(slices.Compact(messages), "; ")
}
