package relay

import "testing"

// A relay that loses its lease and takes it again leads since its first term; one that
// takes it after another leads since then.
func TestLeadingSince(t *testing.T) {
	t.Parallel()
	var st stats
	lead := func(of share, term int64) (since int64) {
		st.began(of, term)
		defer st.ended(of)
		return st.leading.Load()
	}
	only := share{0, 1}
	first := lead(only, 5)
	if st.leading.Load() != 0 {
		t.Error("it leads although its term has ended")
	}
	if again := lead(only, 6); again != first {
		t.Error("its own next term is a new beginning")
	}
	if again := lead(only, 7); again != first {
		t.Error("the one behind that is a new beginning")
	}
	if other := lead(only, 9); other <= first {
		t.Error("a term behind another relay's goes on with its own before that")
	}
	if other := lead(share{1, 2}, 10); other <= first {
		t.Error("another shard's term goes on with this one's")
	}
}
