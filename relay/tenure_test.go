package relay

import (
	"testing"
	"time"
)

// A relay that loses its lease and takes it again leads since its first term; one that
// takes it after another leads since then.
func TestLeadingSince(t *testing.T) {
	t.Parallel()
	var st stats
	lead := func(of share, term int64) (since time.Time) {
		st.began(of, term)
		defer st.ended(of)
		return st.leading
	}
	only := share{0, 1}
	first := lead(only, 5)
	if !st.leading.IsZero() {
		t.Error("it leads although its term has ended")
	}
	if again := lead(only, 6); !again.Equal(first) {
		t.Error("its own next term is a new beginning")
	}
	if again := lead(only, 7); !again.Equal(first) {
		t.Error("the one behind that is a new beginning")
	}
	if other := lead(only, 9); !other.After(first) {
		t.Error("a term behind another relay's goes on with its own before that")
	}
	if other := lead(share{1, 2}, 10); !other.After(first) {
		t.Error("another shard's term goes on with this one's")
	}
}

// Who asks while a term begins is told of a term, of its beginning and of a lease, or of
// none: a relay that leads since ever would pass for stalled.
func TestTermAndItsBeginningAreToldTogether(t *testing.T) {
	t.Parallel()
	for range 20 {
		r := &Relay{}
		told := make(chan Stats, 1)
		r.stats.mu.Lock()
		go r.stats.began(share{0, 1}, 7)
		<-time.After(time.Millisecond) // it waits
		go func() { told <- r.Stats() }()
		<-time.After(time.Millisecond) // behind it
		r.stats.mu.Unlock()
		s := <-told
		if held := s.Leases > 0; (s.Term > 0) != held || s.Leading.IsZero() == held {
			t.Fatalf("it is told term %d since %v, %d leases", s.Term, s.Leading, s.Leases)
		}
	}
}
