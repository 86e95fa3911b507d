package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A Fault is the first line of a log that is not as it was written.
type Fault struct {
	Line   int64  // of all that was read, from 1
	Reason string // what is wrong with it
}

func (f *Fault) Error() string { return fmt.Sprintf("line %d: %s", f.Line, f.Reason) }

// A Summary is what Verify has found.
type Summary struct {
	Lines       int64
	First, Last int64 // sequence numbers
}

// Verify reads a log, of which older parts come first, and returns a *Fault for
// the first line that was altered, is missing or is in the wrong place. A log
// may begin anywhere: what was before cannot be told from what it has. each is
// called for each good line; nil: nobody is.
func Verify(log io.Reader, each func(Event) error) (Summary, error) {
	var s Summary
	lines := bufio.NewReaderSize(log, 64<<10)
	previous := ""
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		s.Lines++
		fault := func(format string, args ...any) (Summary, error) {
			return s, &Fault{s.Lines, fmt.Sprintf(format, args...)}
		}
		if err != nil {
			return fault("%v", err)
		}
		event, err := parse(line)
		switch {
		case err != nil:
			return fault("%v", err)
		case s.Lines > 1 && event.Sequence != s.Last+1:
			return fault("it is event %d, and event %d is expected: lines are missing or in another order", event.Sequence, s.Last+1)
		case s.Lines > 1 && event.Previous != previous:
			return fault("it does not follow the line before: one of them was altered")
		case event.Sequence == 1 && event.Previous != zeros:
			return fault("it is the first event, and says that there was one before")
		}
		if s.Lines == 1 {
			s.First = event.Sequence
		}
		s.Last, previous = event.Sequence, hash(line)
		if each == nil {
			continue
		}
		if err := each(event); err != nil {
			return s, err
		}
	}
}

// readLine returns a line without its end, or io.EOF after the last one.
func readLine(from *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := from.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("it has more than %d bytes", maxLine)
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, errors.New("it has no end: the log was cut off there")
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// parse reads a line, strictly: what the log never writes was not written by it.
func parse(line []byte) (Event, error) {
	var event Event
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&event); err != nil {
		return event, errors.New("it is no event")
	}
	again, err := json.Marshal(&event)
	if err != nil || !bytes.Equal(again, line) {
		return event, errors.New("it is no event as this program writes it")
	}
	return event, nil
}

func sequenceOf(line []byte) (int64, error) {
	event, err := parse(line)
	return event.Sequence, err
}
