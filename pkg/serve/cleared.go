package serve

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// ClearedServer returns the options of a server whose replies hold secrets: no
// buffer that a message was in keeps it, but for that of the connection from
// which requests are read. What handlers make of a message is theirs to forget.
func ClearedServer() []grpc.ServerOption {
	return append(Cleared(), grpc.WriteBufferSize(0)) // which would keep the last reply
}

// Cleared is ClearedServer for replies that hold none.
func Cleared() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}), experimental.BufferPool(pool),
		grpc.NumStreamWorkers(workers), // whose stacks have grown to what a call needs
	}
}

// workers is how many calls are served by goroutines that stay.
const workers = 4

// ClearedClient is ClearedServer for a client that gets such replies.
func ClearedClient() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})), experimental.WithBufferPool(pool), grpc.WithReadBufferSize(0),
	}
}

// pool has the buffers of messages in either direction.
var pool mem.BufferPool = cleared{mem.DefaultBufferPool()}

// A cleared pool overwrites what comes back to it.
type cleared struct{ mem.BufferPool }

// Put implements mem.BufferPool.
func (c cleared) Put(buf *[]byte) {
	clear((*buf)[:cap(*buf)])
	c.BufferPool.Put(buf)
}

// A codec is that of protocol buffers, but for its buffers.
type codec struct{}

// pooled is the size from which on a buffer goes back to its pool.
const pooled = 2 << 10

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("a %T is no message", v)
	}
	buf := pool.Get(max(proto.Size(message), pooled))
	text, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], message)
	if err != nil {
		pool.Put(buf)
		return nil, err
	}
	*buf = text
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2. The buffers are its own: nobody else
// has seen them.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("a %T is no message", v)
	}
	whole := data.MaterializeToBuffer(pool)
	defer whole.Free()
	err := proto.Unmarshal(whole.ReadOnlyData(), message)
	for _, part := range append(mem.BufferSlice{whole}, data...) { // small ones have no pool
		clear(part.ReadOnlyData())
	}
	return err
}

// Name implements encoding.CodecV2: the peer need not know.
func (codec) Name() string { return "proto" }

var _ encoding.CodecV2 = codec{}
