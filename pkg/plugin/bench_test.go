package plugin_test

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

// BenchmarkFetch measures a Fetch through the socket, and as "x-empty-call"
// how many empty gRPC calls on the same socket would take as long.
func BenchmarkFetch(b *testing.B) {
	dir := shortDir(b)
	lis := listen(b, dir)
	serve(b, lis, says("content"), nil)
	p := lookup(b, newDir(b, nil, dir))
	conn, err := grpc.NewClient("unix:"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	driver := v1alpha1.NewCSIDriverProviderClient(conn)
	req := fullRequest()

	// Taking turns, both meet the same noise.
	var fetches, calls time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if _, err := p.Fetch(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		fetched := time.Now()
		if _, err := driver.Version(b.Context(), &v1alpha1.VersionRequest{}); err != nil {
			b.Fatal(err)
		}
		fetches += fetched.Sub(start)
		calls += time.Since(fetched)
	}
	b.ReportMetric(float64(fetches.Nanoseconds())/float64(b.N), "ns/fetch")
	b.ReportMetric(float64(fetches)/float64(calls), "x-empty-call")
}
