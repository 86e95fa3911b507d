package rotate

import (
	"fmt"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/volume"
)

// BenchmarkQueue takes the first of 2,000 volumes and puts it back.
func BenchmarkQueue(b *testing.B) {
	const n = 2000
	q := newQueue(1)
	now := time.Now()
	for i := range n {
		q.put(volume.Record{ID: volume.ID(fmt.Sprint(i)), Provider: fmt.Sprint(i % 4)}, now.Add(time.Duration(i*7919%n)*time.Second))
	}
	b.ReportAllocs()
	for b.Loop() {
		it, _ := q.take(now.Add(n*time.Second), 0)
		if it == nil {
			b.Fatal("nothing is due")
		}
		q.put(volume.Record{ID: it.id, Provider: it.lane.key.provider}, now.Add(time.Duration(int(it.due.Sub(now)/time.Second)*31%n)*time.Second))
	}
}
