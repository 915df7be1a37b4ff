package cli

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
)

// input is a file or standard input, uncompressed.
type input struct {
	io.Reader
	close func() error
	// share is how much of it has been read, 1 being all; nil where nobody knows.
	share func() float64
}

// Close closes the file.
func (i *input) Close() error { return i.close() }

// openInput opens a file, or standard input for "-" and "".
func openInput(cmd *cobra.Command, path string) (*input, error) {
	if path == "-" || path == "" {
		in, share := counted(cmd.InOrStdin())
		return &input{plain(untilDone(cmd.Context(), in)), func() error { return nil }, share}, nil
	}
	f, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, fmt.Errorf("--input: %w", err)
	}
	in, share := counted(f)
	if !strings.HasSuffix(path, ".gz") {
		return &input{plain(in), f.Close, share}, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		_ = f.Close()
		return nil, gzipError(path, err)
	}
	return &input{gunzip{z, path}, f.Close, share}, nil
}

// counted counts what is read of a file, also of one that is standard input.
func counted(from io.Reader) (in io.Reader, share func() float64) {
	f, ok := from.(*os.File)
	if !ok {
		return from, nil
	}
	about, err := f.Stat()
	if err != nil || !about.Mode().IsRegular() || about.Size() == 0 {
		return from, nil
	}
	c := &counting{from: f}
	return c, func() float64 { return min(float64(c.read.Load())/float64(about.Size()), 1) }
}

// counting counts the bytes that are read. Another goroutine may ask for them.
type counting struct {
	from io.Reader
	read atomic.Int64
}

// Read implements [io.Reader].
func (c *counting) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// unzipped refuses what is compressed: read as lines it would be a strange entity.
type unzipped struct {
	*bufio.Reader
	begun bool
}

func plain(from io.Reader) io.Reader { return &unzipped{Reader: bufio.NewReader(from)} }

// Read implements [io.Reader].
func (u *unzipped) Read(p []byte) (int, error) {
	if !u.begun {
		u.begun = true
		if magic, _ := u.Peek(2); string(magic) == "\x1f\x8b" { // its error comes again from Read
			return 0, errors.New("the input is compressed by gzip: send it through gunzip, or name a file that ends in .gz")
		}
	}
	return u.Reader.Read(p)
}

// gunzip names the file in its errors.
type gunzip struct {
	from io.Reader
	path string
}

// Read implements [io.Reader].
func (g gunzip) Read(p []byte) (int, error) {
	n, err := g.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = gzipError(g.path, err)
	}
	return n, err
}

func gzipError(path string, err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("--input %s: the file is cut off: copy or make it anew: %w", path, err)
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return fmt.Errorf("--input %s: the file is damaged, or not compressed by gzip as its name says: %w", path, err)
	}
	return fmt.Errorf("--input %s: %w", path, err)
}

// pipe reads from another goroutine, which alone can wait for a pipe that stays
// silent.
type pipe struct {
	parts <-chan part
	done  <-chan struct{}
	left  part
}

type part struct {
	bytes []byte
	err   error
}

// untilDone returns a reader that ends when ctx does, also while it waits. The
// goroutine that is left waiting then ends with the process or with its input.
func untilDone(ctx context.Context, from io.Reader) io.Reader {
	parts := make(chan part)
	go func() {
		for {
			p := part{bytes: make([]byte, 1<<16)}
			var n int
			n, p.err = from.Read(p.bytes)
			p.bytes = p.bytes[:n]
			select {
			case parts <- p:
			case <-ctx.Done():
				return
			}
			if p.err != nil {
				return
			}
		}
	}()
	return &pipe{parts: parts, done: ctx.Done()}
}

// Read implements [io.Reader].
func (p *pipe) Read(into []byte) (int, error) {
	for len(p.left.bytes) == 0 {
		if p.left.err != nil {
			return 0, p.left.err
		}
		select {
		case p.left = <-p.parts:
		case <-p.done:
			return 0, context.Canceled
		}
	}
	n := copy(into, p.left.bytes)
	p.left.bytes = p.left.bytes[n:]
	return n, nil
}
