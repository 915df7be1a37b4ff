// Package reconcile compares a master with its replicas and makes them equal
// again: dumps, loads, and the two rounds of comparison.
//
// Its files and streams are django-cqrs's, so that either end of a pipe may be a
// Django service:
//
//	relay diff master --cqrs-id account | ssh billing ./manage.py cqrs_diff_replica | relay diff sync
//
// A dump is the CQRS ID on the first line and the data of a row on each other,
// without a line break at the end. A comparison is a header (CQRS ID, time, and
// the queue when it comes from a replica) and lines of JSON arrays.
//
// Everything streams: reading is paged by key, so that it neither skips rows
// while others are deleted nor holds a transaction for long, and memory does not
// grow with the number of rows. All of it is safe beside live events.
package reconcile

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// Master is the side that owns the rows.
type Master struct {
	DB     *sql.DB
	Outbox *outbox.Outbox
}

// Replica is the side that follows them. The consumer is not run; its
// registered tables say what goes where.
type Replica struct {
	DB       *sql.DB
	Consumer *consumer.Consumer
	// Queue is the name of the replica's queue, for the streams that name it.
	Queue string
}

// Progress is called now and then with how many rows are done. Nil is allowed.
type Progress func(done int64)

func (p Progress) report(done int64) {
	if p != nil {
		p(done)
	}
}

// FormatError says that a stream or a file is not what it should be.
type FormatError struct {
	// Line is counted from 1.
	Line int
	Err  error
}

func (e *FormatError) Error() string { return fmt.Sprintf("reconcile: line %d: %v", e.Line, e.Err) }

// Unwrap returns what is wrong with the line.
func (e *FormatError) Unwrap() error { return e.Err }

// ErrEmpty reports a file or a stream without a first line.
var ErrEmpty = errors.New("it is empty")

// DefaultBatch is how many keys or rows go together when nothing else is said.
const DefaultBatch = 2000

func batchOf(size int) int {
	if size <= 0 {
		return DefaultBatch
	}
	return size
}

// header is the first line of a comparison.
type header struct {
	entity string
	at     string // as it was read
	queue  string // "" when there is none
}

func (h header) write(w io.Writer) error {
	line := h.entity + "," + h.at
	if h.queue != "" {
		line += "," + h.queue
	}
	_, err := io.WriteString(w, line+"\n")
	return err
}

// now is the time as it stands in a header.
func now() string { return event.FormatTime(time.Now()) }

// lines reads a stream line by line. Lines may be of any length.
type lines struct {
	r      *bufio.Reader
	number int
	buf    []byte
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 1<<16)} }

// next returns the next line without its end, good until the next call, and
// io.EOF behind the last one.
func (l *lines) next() ([]byte, error) {
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		l.buf = append(l.buf, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(l.buf) == 0:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("reconcile: read: %w", err)
		}
		l.number++
		return bytes.TrimRight(l.buf, "\r\n"), nil
	}
}

// cutOff reports whether the line that next returned, which is no JSON, is the last one
// and the beginning of an object.
func (l *lines) cutOff(line []byte) bool {
	if len(line) == 0 || line[0] != '{' || bytes.HasSuffix(l.buf, []byte("\n")) {
		return false
	}
	err := json.NewDecoder(bytes.NewReader(line)).Decode(new(json.RawMessage))
	return errors.Is(err, io.ErrUnexpectedEOF)
}

func (l *lines) fault(err error) error { return &FormatError{Line: l.number, Err: err} }

// header reads the first line of a comparison. Its error is ErrEmpty when there
// is none.
func (l *lines) header() (header, time.Time, error) {
	line, err := l.next()
	if errors.Is(err, io.EOF) {
		return header{}, time.Time{}, ErrEmpty
	}
	if err != nil {
		return header{}, time.Time{}, err
	}
	columns := strings.Split(string(line), ",")
	if len(columns) != 2 && len(columns) != 3 {
		return header{}, time.Time{}, l.fault(fmt.Errorf("%.60q is not the header of a comparison: CQRS ID, time and perhaps a queue", line))
	}
	h := header{entity: columns[0], at: columns[1]}
	if len(columns) == 3 {
		h.queue = columns[2]
	}
	at, _, err := event.ParseTime(h.at)
	if err != nil {
		return header{}, time.Time{}, l.fault(fmt.Errorf("the header's time: %w", err))
	}
	return h, at, nil
}

// keys reads a line of keys.
func (l *lines) keys() ([]json.RawMessage, error) {
	line, err := l.next()
	if err != nil {
		return nil, err
	}
	var keys []json.RawMessage
	if err := json.Unmarshal(line, &keys); err != nil {
		return nil, l.fault(fmt.Errorf("%.60q is not a JSON array of keys", line))
	}
	for _, key := range keys {
		if _, ok := event.Text(key); !ok {
			return nil, l.fault(fmt.Errorf("%.60s is not a key: use a number or a string", key))
		}
	}
	return keys, nil
}

// writeKeys writes keys as one line; none is no line.
func writeKeys(w io.Writer, keys []json.RawMessage) error {
	if len(keys) == 0 {
		return nil
	}
	line := []byte{'['}
	for i, key := range keys {
		if i > 0 {
			line = append(line, ',')
		}
		line = append(line, key...)
	}
	_, err := w.Write(append(line, ']', '\n'))
	return err
}

// among returns the filter for rows with one of the keys.
func among(keys []json.RawMessage) outbox.Filter {
	var b strings.Builder
	b.WriteString(`{"pk__in":`)
	_ = writeKeys(&b, keys)
	b.WriteString("}")
	return outbox.Filter(b.String())
}
