package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestADriverThatBecomesReadyLateIsNoticedAtOnce(t *testing.T) {
	log := captureLog(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		asked := 0
		err := RemoveStartupTaint(ctx, nil, "n", func(context.Context) error { // nil: no call is made
			asked++
			return errors.New("provider vault does not answer")
		})
		if want := int(time.Hour / readyPoll); err != nil || asked < want {
			t.Errorf("in an hour readiness was asked for %d times, want %d; %v", asked, want, err)
		}
	})
	if got := log.lines("provider vault does not answer"); len(got) != 1 {
		t.Errorf("log: %q, want one line", got)
	}
}

func TestATaintThatMayNotBeRemovedSaysWhatToDo(t *testing.T) {
	for _, verb := range []string{http.MethodGet, http.MethodPatch} {
		t.Run(verb, func(t *testing.T) {
			s := newStage(t)
			s.put(nodes+"n", object{"apiVersion": "v1", "kind": "Node", "spec": object{"taints": []object{{"key": startupTaint, "effect": "NoSchedule"}}}})
			s.refuse = func(v, _ string) int {
				if v == verb {
					return http.StatusForbidden
				}
				return 0
			}
			if err := removeTaint(t.Context(), s.client, "n"); err == nil || !strings.Contains(err.Error(), "startupTaint.remove of the chart grants it") {
				t.Errorf("removeTaint = %v", err)
			}
		})
	}
}
