package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/klog/v2"
)

// eventPatience is how long an event is tried to be sent while others wait.
const eventPatience = 10 * time.Minute

// Run sends events until ctx ends. Many events of one pod, or equal ones, are
// aggregated, and there is a limit to their rate: that of client-go, for each
// reason, so that pods which rotate often still hear of failures.
func (e *Events) Run(ctx context.Context) error {
	s := &sender{events: e, correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{
		SpamKeyFunc: func(ev *corev1.Event) string {
			return strings.Join([]string{ev.Namespace, string(ev.InvolvedObject.UID), ev.Type, ev.Reason}, "\x00")
		},
	})}
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-e.backlog:
			if n := e.dropped.Swap(0); n > 0 {
				klog.InfoS("Events were dropped: too many waited for the API server", "count", n)
			}
			s.send(ctx, ev)
		}
	}
}

// A sender sends one event after the other.
type sender struct {
	events     *Events
	correlator *record.EventCorrelator
	refused    bool // the API server refused the last one
}

// send sends one event, unless there are too many like it. It tries again
// while the API server is not well.
func (s *sender) send(ctx context.Context, ev event) {
	result, err := s.correlator.EventCorrelate(s.events.object(ev))
	if err != nil || result.Skip {
		return
	}
	patient, cancel := context.WithTimeout(ctx, eventPatience)
	defer cancel()
	done := retry(patient, "Event cannot be sent", func() error {
		sent, err := s.events.write(patient, result)
		switch {
		case err == nil:
			s.correlator.UpdateState(sent)
			s.refused = false
		case isFinal(err):
			s.complain(ev, err)
		default:
			return err
		}
		return nil
	})
	if !done && ctx.Err() == nil {
		s.events.dropped.Add(1)
	}
}

// complain logs that an event was refused, unless that is as it should be or
// was logged already.
func (s *sender) complain(ev event, err error) {
	if s.refused || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return
	}
	s.refused = true
	klog.ErrorS(err, "Event was refused: check the ClusterRole of the driver's service account", "pod", klog.KRef(ev.pod.Namespace, ev.pod.Name), "reason", ev.reason)
}

// isFinal reports whether it is of no use to try again.
func isFinal(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError && !apierrors.IsTooManyRequests(err)
}

// object returns the event as the API server takes it.
func (e *Events) object(ev event) *corev1.Event {
	now := metav1.Now()
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: util.GenerateEventName(ev.pod.Name, now.UnixNano()), Namespace: ev.pod.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Pod",
			Namespace: ev.pod.Namespace, Name: ev.pod.Name, UID: types.UID(ev.pod.UID),
		},
		Type: ev.kind, Reason: ev.reason, Message: ev.message,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source:              corev1.EventSource{Component: component, Host: e.node},
		ReportingController: component, ReportingInstance: e.node,
	}
}

// write creates an event, or counts it if there is one like it. That one may
// have expired.
func (e *Events) write(ctx context.Context, result *record.EventCorrelateResult) (*corev1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	events := e.client.events(result.Event.Namespace)
	if result.Event.Count > 1 {
		sent, err := events.Patch(ctx, result.Event.Name, types.StrategicMergePatchType, result.Patch, metav1.PatchOptions{})
		if !apierrors.IsNotFound(err) {
			return sent, err
		}
		result.Event.ResourceVersion = ""
	}
	return events.Create(ctx, result.Event, metav1.CreateOptions{})
}
