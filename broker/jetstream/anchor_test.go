package jetstream_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// TestStreamWithoutAnchor: a cluster's stream of a version without anchors is used while a
// server has no JetStream, as when its disk is full, and gets its anchor when all have it.
func TestStreamWithoutAnchor(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	b, err := jetstream.Open(t.Context(), c.url("replicas=3"), jetstream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mustBind(t, b, "q", "account")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	leader := c.leader(t, "cqrs")
	ill := c.nodes[(slices.Index(c.nodes, leader)+1)%len(c.nodes)]
	nc, err := nats.Connect("nats://" + leader.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "cqrs")
	if err == nil {
		err = stream.Purge(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	anchored := func() bool {
		_, err := stream.GetLastMsgForSubject(t.Context(), "cqrs-delay.anchor")
		if err != nil && !errors.Is(err, natsjs.ErrMsgNotFound) {
			t.Log(err)
		}
		return err == nil
	}

	if err := ill.srv.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	until(t, "the others notice", func() bool {
		keeper, err := stream.Consumer(t.Context(), "=delays")
		lags := func(p *natsjs.PeerInfo) bool { return !p.Current && !p.Offline }
		return err == nil && slices.ContainsFunc(keeper.CachedInfo().Cluster.Replicas, lags)
	})
	// What the anchor is not stored within, and everything else is.
	until(t, "a Broker opens without it", func() bool {
		b, err = jetstream.Open(t.Context(), c.url("replicas=3&confirm_timeout=5s"), jetstream.Config{})
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	mustPublish(t, b, "account", bodies(0, 1)...)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if anchored() {
		t.Error("the anchor was stored without one of the servers")
	}

	ill.stop()
	ill.start(t)
	c.whole(t)
	until(t, "the anchor is stored", func() bool {
		b, err := jetstream.Open(t.Context(), c.url("replicas=3&confirm_timeout=2s"), jetstream.Config{})
		if err == nil {
			err = b.Close()
		}
		if err != nil {
			t.Log(err)
		}
		return anchored()
	})
}
