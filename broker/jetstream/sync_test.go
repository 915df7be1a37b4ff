package jetstream

import (
	"testing"
	"time"
)

// The URL says when what is confirmed is on the disk of a machine that loses power.
func TestSyncSaysWhenTheConfirmedIsOnDisk(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]time.Duration{"": time.Second, "?sync=10s": 10 * time.Second, "?sync=always": 0} {
		b, err := Open(t.Context(), "jetstream+embedded://"+t.TempDir()+query, Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		have := b.server.srv.JetStreamConfig()
		if have.SyncAlways != (want == 0) || want > 0 && have.SyncInterval != want {
			t.Errorf("%q: SyncAlways is %v and SyncInterval %v, want %v", query, have.SyncAlways, have.SyncInterval, want)
		}
	}
}
