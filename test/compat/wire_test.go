package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

// patience bounds waits that end at once unless something is broken.
const patience = 20 * time.Second

// A message describes the fields of a protobuf message by their numbers.
type message map[protowire.Number]field

// A field has a name and a kind: "string", "bytes", "int32", or the message
// that it holds.
type field struct {
	name string
	kind any
}

// The messages of v1alpha1 as upstream's providers were compiled with them,
// and those of keymount.v1.
var (
	objectVersion = message{1: {"id", "string"}, 2: {"version", "string"}}
	file          = message{1: {"path", "string"}, 2: {"mode", "int32"}, 3: {"contents", "bytes"}}
	failure       = message{1: {"code", "string"}}

	versionRequest  = message{1: {"version", "string"}}
	versionResponse = message{1: {"version", "string"}, 2: {"runtime_name", "string"}, 3: {"runtime_version", "string"}}
	mountRequest    = message{
		1: {"attributes", "string"}, 2: {"secrets", "string"}, 3: {"target_path", "string"},
		4: {"permission", "string"}, 5: {"current_object_version", objectVersion},
	}
	mountResponse = message{1: {"object_version", objectVersion}, 2: {"error", failure}, 3: {"files", file}}

	change         = message{1: {"object_id", "string"}}
	releaseRequest = message{1: {"lease_id", "string"}}
	empty          = message{}
)

// text writes a message in the order of its bytes, one line per field.
func (m message) text(t *testing.T, wire []byte) string {
	t.Helper()
	var out strings.Builder
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		f, known := m[number]
		if n < 0 || !known {
			t.Fatalf("a field %d that the protocol does not have, in %x", number, wire)
		}
		wire = wire[n:]
		if f.kind == "int32" {
			value, n := protowire.ConsumeVarint(wire)
			if kind != protowire.VarintType || n < 0 {
				t.Fatalf("field %s is no varint", f.name)
			}
			fmt.Fprintf(&out, "%s: %d\n", f.name, int32(value))
			wire = wire[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(wire)
		if kind != protowire.BytesType || n < 0 {
			t.Fatalf("field %s has no length", f.name)
		}
		wire = wire[n:]
		if inner, ok := f.kind.(message); ok {
			fmt.Fprintf(&out, "%s {\n", f.name)
			for line := range strings.Lines(inner.text(t, value)) {
				out.WriteString("  " + line)
			}
			out.WriteString("}\n")
			continue
		}
		fmt.Fprintf(&out, "%s: %q\n", f.name, value)
	}
	return out.String()
}

// str encodes a string, bytes or message field.
func str[T string | []byte](number protowire.Number, value T) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), []byte(value))
}

// num encodes an int32 field.
func num(number protowire.Number, value int32) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), uint64(int64(value)))
}

// join concatenates fields.
func join(fields ...[]byte) []byte {
	var all []byte
	for _, f := range fields {
		all = append(all, f...)
	}
	return all
}

// raw is a codec that leaves messages as bytes.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// A call is what a server was asked.
type call struct {
	method string
	wire   []byte
	md     metadata.MD
}

// A rawServer answers each method with fixed bytes, and notes what it was asked.
type rawServer struct {
	replies map[string][]byte
	header  metadata.MD
	calls   chan call
}

// serve serves on lis until the test ends.
func (s *rawServer) serve(t *testing.T, lis net.Listener) {
	t.Helper()
	s.calls = make(chan call, 10)
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(s.handle))
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := receive(t, done); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Errorf("Serve: %v", err)
		}
	})
}

func (s *rawServer) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	md, _ := metadata.FromIncomingContext(stream.Context())
	var wire []byte
	if err := stream.RecvMsg(&wire); err != nil {
		return err
	}
	s.calls <- call{method, wire, md}
	reply := s.replies[method]
	if err := stream.SetHeader(s.header); err != nil {
		return err
	}
	return stream.SendMsg(&reply)
}

// ask makes a call with raw bytes, and returns the first reply and its headers.
func ask(t *testing.T, path, method string, md metadata.MD, wire []byte) ([]byte, metadata.MD, error) {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), patience)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&wire); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var reply []byte
	if err := stream.RecvMsg(&reply); err != nil {
		return nil, nil, err
	}
	header, err := stream.Header()
	return reply, header, err
}

// receive returns the next value of c.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}
