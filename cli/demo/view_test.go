package demo

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// terminal is as much of one as the view needs: it wraps long lines, scrolls,
// and knows the three movements that the view makes.
type terminal struct {
	t             *testing.T
	width, height int
	lines         []string // all that was ever on it; the last height are seen
	row           int      // the cursor's line, whose column is always 0 between writes
}

func (m *terminal) write(text string) {
	m.t.Helper()
	for text != "" {
		switch c, _ := utf8.DecodeRuneInString(text); c {
		case '\x1b':
			text = m.move(text)
		case '\n':
			m.down()
			text = text[1:]
		default:
			end := strings.IndexAny(text, "\n\x1b")
			if end < 0 {
				end = len(text)
			}
			m.put([]rune(text[:end]))
			text = text[end:]
		}
	}
}

// move obeys an escape sequence and returns what is behind it.
func (m *terminal) move(text string) string {
	m.t.Helper()
	end := strings.IndexAny(text, "AHJ")
	if end < 0 {
		m.t.Fatalf("unknown escape sequence %q", text)
	}
	top := max(0, len(m.lines)-m.height)
	switch argument, kind := text[2:end], text[end]; {
	case kind == 'A':
		n, err := strconv.Atoi(argument)
		if err != nil {
			m.t.Fatalf("bad number in %q", text[:end+1])
		}
		m.row = max(top, m.row-n)
	case kind == 'H':
		m.row = top
	case argument == "2":
		m.lines = append(m.lines[:top], slices.Repeat([]string{""}, m.height)...)
	default:
		m.lines = m.lines[:m.row]
		m.lines = append(m.lines, "")
	}
	return text[end+1:]
}

func (m *terminal) down() {
	m.row++
	for m.row >= len(m.lines) {
		m.lines = append(m.lines, "")
	}
}

// put writes a text from the cursor's line on, which may take several.
func (m *terminal) put(text []rune) {
	for {
		n := min(len(text), m.width)
		for m.row >= len(m.lines) {
			m.lines = append(m.lines, "")
		}
		m.lines[m.row] = string(text[:n])
		if text = text[n:]; len(text) == 0 {
			return
		}
		m.down()
	}
}

// seen returns what is on the screen, without empty lines at its end.
func (m *terminal) seen() string {
	return strings.TrimRight(strings.Join(m.lines[max(0, len(m.lines)-m.height):], "\n"), "\n")
}

// aDemo has names that are longer than any terminal.
func aDemo() *demo {
	return &demo{Config: Config{
		Master:     Side{Name: "127.0.0.1:5432/" + strings.Repeat("master", 20)},
		Replica:    Side{Name: "127.0.0.1:5432/" + strings.Repeat("réplica", 20)},
		BrokerName: "amqp://" + strings.Repeat("broker", 20),
	}}
}

func aSample(n int64) sample {
	return sample{
		at: time.Unix(n, 0), pending: n, lag: 12345 * time.Millisecond,
		accounts: 1e9 + n, authors: 1e6, accountCopies: 1e9, authorCopies: 1e6,
		result: Result{Seconds: float64(n), Transactions: 1e12, RolledBack: 1e11, Written: n * 1e9, Published: n * 1e9, Applied: n * 1e9, LatencyMS: Latency{12345.6, 123456.7}},
	}
}

// However narrow or low the terminal, one picture stands on it, below what was
// there before.
func TestPictureIsDrawnInPlace(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{200, 50}, {81, 24}, {80, 24}, {79, 24}, {40, 24}, {20, 24}, {15, 24}, {80, 8}, {40, 3}} {
		width, height := size[0], size[1]
		d, on := aDemo(), screen{}
		m := &terminal{t: t, width: width, height: height}
		m.write("$\n")
		var last sample
		for i := range int64(5) {
			now := aSample(i + 1)
			m.write(on.draw(width, height, d.picture(now, last, width)))
			last = now
		}
		seen := m.seen()
		if n := strings.Count(seen, shorten("Lockstep demo", min(width, 13))); n != 1 {
			t.Errorf("%d × %d: %d pictures on the screen:\n%s", width, height, n, seen)
		}
		if !strings.Contains(seen, shorten("Lockstep demo, 5 s.", width)) {
			t.Errorf("%d × %d: not the last picture:\n%s", width, height, seen)
		}
		if height >= 24 && width >= 40 {
			for _, part := range []string{"MASTER", "RELAY", "REPLICA", "written", "published", "applied 5", "p99"} {
				if !strings.Contains(seen, part) {
					t.Errorf("%d × %d: the picture lacks %q:\n%s", width, height, part, seen)
				}
			}
		}
	}
}

// A terminal whose width changes has wrapped what stood on it.
func TestPictureAfterResize(t *testing.T) {
	t.Parallel()
	d, on := aDemo(), screen{}
	m := &terminal{t: t, width: 100, height: 24}
	m.write(on.draw(100, 24, d.picture(aSample(1), sample{}, 100)))
	m.width = 40
	var wrapped []string
	for _, line := range m.lines {
		r := []rune(line)
		for len(r) > 40 {
			wrapped, r = append(wrapped, string(r[:40])), r[40:]
		}
		wrapped = append(wrapped, string(r))
	}
	m.lines, m.row = wrapped, len(wrapped)-1
	m.write(on.draw(40, 24, d.picture(aSample(2), aSample(1), 40)))
	m.write(on.draw(40, 24, d.picture(aSample(3), aSample(2), 40)))
	if seen := m.seen(); strings.Count(seen, "Lockstep demo") != 1 || !strings.Contains(seen, "Lockstep demo, 3 s.") {
		t.Errorf("after the change:\n%s", seen)
	}
}

// A size that is not known leaves the lines as they are.
func TestPictureOfUnknownSize(t *testing.T) {
	t.Parallel()
	d, on := aDemo(), screen{}
	lines := d.picture(aSample(1), sample{}, 0)
	if have, want := on.draw(0, 0, lines), strings.Join(lines, "\n")+"\n"; have != want {
		t.Errorf("drawn %q, want %q", have, want)
	}
}
