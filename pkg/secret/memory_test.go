package secret_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/keymount/keymount/pkg/secret"
)

// memory reads what is at an address of this process, whatever it is used for.
func memory(t *testing.T, at uintptr, size int) []byte {
	t.Helper()
	file, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	text := make([]byte, size)
	if _, err := file.ReadAt(text, int64(at)); err != nil {
		t.Fatal(err)
	}
	return text
}

// address makes a value, and returns where its bytes are and what keep returns.
func address(text []byte, keep func(secret.Value) []byte) (uintptr, []byte) {
	v := secret.New(text)
	return uintptr(unsafe.Pointer(unsafe.SliceData(v.Reveal()))), keep(v)
}

func TestAValueIsOverwrittenOnceNothingRefersToIt(t *testing.T) {
	for _, size := range []int{1, 15, 16, 17, 33, 4000, 1 << 20} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			text := bytes.Repeat([]byte{0xA5}, size)
			at, _ := address(text, func(secret.Value) []byte { return nil })
			end := time.After(10 * time.Second)
			for bytes.Equal(memory(t, at, size), text) {
				select {
				case <-end:
					t.Fatal("it is still there")
				default:
					runtime.GC()
				}
			}
		})
	}
}

func TestWhoHasRevealedAPartOfAValueCanGoOnToUseIt(t *testing.T) {
	text := []byte("a secret of more than sixteen bytes")
	at, part := address(text, func(v secret.Value) []byte { return v.Reveal()[2:8] })
	for range 3 {
		runtime.GC()
	}
	if string(part) != "secret" || !bytes.Equal(memory(t, at, len(text)), text) {
		t.Errorf("it reads %q", part)
	}
	runtime.KeepAlive(part)
}

func TestWhatIsTakenIsInTheValueOnly(t *testing.T) {
	text := []byte("a secret")
	v := secret.Take(text)
	if string(v.Reveal()) != "a secret" || !bytes.Equal(text, make([]byte, len(text))) {
		t.Errorf("the value has %q, its source %q", v.Reveal(), text)
	}
}

func TestDoCallsItsFunction(t *testing.T) {
	called := false
	secret.Do(func() { called = true })
	if !called {
		t.Error("it was not called")
	}
	defer func() {
		if value := recover(); value != "as it was" {
			t.Errorf("the panic became %v", value)
		}
	}()
	secret.Do(func() { panic("as it was") })
}

func TestCollectRunsWhileValuesAreMade(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { secret.Collect(ctx, time.Millisecond); close(ended) }()
	text := []byte("a secret of more than sixteen bytes")
	at, _ := address(text, func(secret.Value) []byte { return nil })
	end := time.After(10 * time.Second)
	for bytes.Equal(memory(t, at, len(text)), text) {
		select {
		case <-end:
			t.Fatal("it is still there")
		default:
			secret.New(nil)
			runtime.Gosched()
		}
	}
	stop()
	<-ended
}
