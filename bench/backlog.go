package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// backlogTimes is how many times the messages of a round a backlog is: 1,000,000
// for 20,000.
const backlogTimes = 50

var relayBacklog = row{
	name: "relay-backlog", target: 0.9, rounds: 3, slow: true,
	what: "the same relay with a backlog of 50 times the round's messages; against half a round's (1,000,000 against 10,000)",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		return byTurns(
			func() (float64, error) { return relayRate(ctx, r, messages*backlogTimes) },
			func() (float64, error) { return relayRate(ctx, r, messages/2) },
		)
	},
}

var relayOpen = row{
	name: "relay-open-tx", target: 0.9,
	what: "the same relay while a transaction that has written to the outbox stays open; against itself without",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		return byTurns(func() (float64, error) {
			tx, err := r.db.BeginTx(ctx, nil)
			if err != nil {
				return 0, err
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.ExecContext(ctx, `INSERT INTO outbox (topic, key, payload) VALUES ('account', 'open', 'x')`); err != nil {
				return 0, err
			}
			return relayRate(ctx, r, messages)
		}, func() (float64, error) { return relayRate(ctx, r, messages) })
	},
}

var relayMemory = row{
	name: "relay-memory", target: 64, rounds: 1, slow: true, unit: "MiB", atMost: true,
	what: "most memory that `relay run` had resident while it emptied a backlog of 50 times the round's messages",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		if err := r.fill(ctx, messages*backlogTimes); err != nil {
			return 0, 0, err
		}
		peak, err := r.residentOf(ctx, messages*backlogTimes)
		return peak, 0, err
	},
}

// residentOf runs the command over n messages and returns its peak in MiB.
func (r *rig) residentOf(ctx context.Context, n int) (peak float64, err error) {
	folder, err := os.MkdirTemp("", "lockstep-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	binary := filepath.Join(folder, "relay")
	if out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "github.com/lockstep-go/lockstep/cmd/relay").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	cmd := exec.CommandContext(ctx, binary, "run", "--database-url", r.postgres, "--broker-url", r.amqpURL+"?exchange="+r.exchange)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	arrived := r.received(ctx, n)
	status, statusErr := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	_ = cmd.Process.Signal(os.Interrupt)
	if err := errors.Join(arrived, statusErr, cmd.Wait()); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, log.String())
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, errors.New("no VmHWM in /proc: this row needs Linux")
}

// perSecond is a rate.
func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }
