package script

import (
	"context"
	"fmt"
	"iter"
	"regexp"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// call calls f with a connection to the driver in $WORK/csi.sock.
func call(ts *testscript.TestScript, f func(ctx context.Context, conn *grpc.ClientConn) error) error {
	conn, err := grpc.NewClient("unix:"+ts.MkAbs("csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f(ctx, conn)
}

// expect checks the outcome of a call; the error of one that must fail is its
// stderr.
func expect(ts *testscript.TestScript, neg bool, err error) {
	switch {
	case err == nil && neg:
		ts.Fatalf("the call succeeded")
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err != nil:
		fmt.Fprintln(ts.Stderr(), err)
	}
}

// ready waits until the driver says that it is:
//
//	ready
func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: ready")
	}
	ts.Check(eventually(func() error {
		return call(ts, func(ctx context.Context, conn *grpc.ClientConn) error {
			probe, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
			if err == nil && !probe.GetReady().GetValue() {
				err = fmt.Errorf("the driver is not ready")
			}
			return err
		})
	}))
}

// publish asks for a volume as kubelet does for a pod's; attributes come on
// top of kubelet's own, and the attribute group is the volume's mount group:
//
//	[!] publish ID TARGET CLASS [ATTRIBUTE=VALUE...]
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: publish ID TARGET CLASS [ATTRIBUTE=VALUE...]")
	}
	attributes := map[string]string{
		"secretProviderClass":                    args[2],
		"csi.storage.k8s.io/ephemeral":           "true",
		"csi.storage.k8s.io/pod.namespace":       "shop",
		"csi.storage.k8s.io/pod.name":            "web",
		"csi.storage.k8s.io/pod.uid":             "pod-of-" + args[0],
		"csi.storage.k8s.io/serviceAccount.name": "web",
	}
	for _, arg := range args[3:] {
		key, value, _ := strings.Cut(arg, "=")
		attributes[key] = value
	}
	group := attributes["group"]
	delete(attributes, "group")
	expect(ts, neg, call(ts, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := csi.NewNodeClient(conn).NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: args[0], TargetPath: ts.MkAbs(args[1]), Readonly: true, VolumeContext: attributes,
			VolumeCapability: &csi.VolumeCapability{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{VolumeMountGroup: group}},
				AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			},
		})
		return err
	}))
}

// unpublish ends a volume as kubelet does:
//
//	[!] unpublish ID TARGET
func unpublish(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: unpublish ID TARGET")
	}
	expect(ts, neg, call(ts, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := csi.NewNodeClient(conn).NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
			VolumeId: args[0], TargetPath: ts.MkAbs(args[1]),
		})
		return err
	}))
}

// stats prints the state of a volume once it matches a pattern:
//
//	[!] stats ID TARGET PATTERN
func stats(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: stats ID TARGET PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	var text string
	look := func(ctx context.Context, conn *grpc.ClientConn) error {
		text, err = state(ctx, csi.NewNodeClient(conn), args[0], ts.MkAbs(args[1]))
		return err
	}
	if neg {
		expect(ts, neg, call(ts, look))
		return
	}
	ts.Check(eventually(func() error {
		if err := call(ts, look); err != nil {
			return err
		}
		if !pattern.MatchString(text) {
			return fmt.Errorf("no match for %q in:\n%s", pattern, text)
		}
		return nil
	}))
	fmt.Fprint(ts.Stdout(), text)
}

// state describes a volume by its usage, its condition as kubelets read it
// today, and its health as later ones will.
func state(ctx context.Context, node csi.NodeClient, id, target string) (string, error) {
	resp, err := node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, usage := range resp.GetUsage() {
		fmt.Fprintf(&text, "usage %v total=%d used=%d\n", usage.GetUnit(), usage.GetTotal(), usage.GetUsed())
	}
	abnormal, message := condition(resp)
	fmt.Fprintf(&text, "condition abnormal=%v %s\n", abnormal, message)
	health, err := node.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: id, VolumePublishPath: target})
	if err != nil {
		return "", err
	}
	for _, entry := range health.GetVolumeHealth().GetHealthStatuses() {
		fmt.Fprintf(&text, "health %v %s\n", entry.GetStatus(), entry.GetReason())
	}
	return text.String(), nil
}

// condition reads the VolumeCondition of CSI 1.12, which 1.13 no longer has:
// field 2 of the response, with the fields abnormal (1) and message (2).
func condition(resp *csi.NodeGetVolumeStatsResponse) (abnormal bool, message string) {
	for number, field := range fields(resp.ProtoReflect().GetUnknown()) {
		if number != 2 {
			continue
		}
		inner, _ := protowire.ConsumeBytes(field)
		for number, field := range fields(inner) {
			switch number {
			case 1:
				value, _ := protowire.ConsumeVarint(field)
				abnormal = value == 1
			case 2:
				text, _ := protowire.ConsumeBytes(field)
				message = string(text)
			}
		}
	}
	return abnormal, message
}

// fields yields the number and the encoded value of each field of a message.
func fields(message []byte) iter.Seq2[protowire.Number, []byte] {
	return func(yield func(protowire.Number, []byte) bool) {
		for len(message) > 0 {
			number, kind, n := protowire.ConsumeTag(message)
			if n < 0 {
				return
			}
			size := protowire.ConsumeFieldValue(number, kind, message[n:])
			if size < 0 || !yield(number, message[n:n+size]) {
				return
			}
			message = message[n+size:]
		}
	}
}
