package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/relay"
)

// statusCommand is `relay status`.
type statusCommand struct {
	settings
	queue   string
	watch   time.Duration
	metrics []string
}

func newStatus(svc *service) *cobra.Command {
	c := &statusCommand{settings: settings{service: svc}}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the outbox and the replica's queue stand",
		Long: `Show how the outbox stands (messages pending, how many of these are failing, the age
of the oldest of either, dead ones, who holds which lease) and the replica's queue
(messages, consumers, dead letters). Each side is shown if it is configured: a
database for the outbox, a broker and a queue for the replica. A broker without a
queue is not asked. What only the processes
know is read from what they serve with --http: a relay's last publish, a consumer's
lag, its parked messages and how long ago the oldest of these was changed in the master.`,
		Example: `  relay status --database-url postgres://localhost/shop
  relay status --broker-url amqp://localhost/ --queue billing --json
  relay status --config lockstep.yaml --watch=5s
  relay status --database-url postgres://localhost/shop --metrics-url http://relay:9464 --metrics-url http://billing:9464`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.databaseFlag(cmd)
	c.brokerFlag(cmd)
	c.configFlag(cmd)
	c.jsonFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&c.queue, flagQueue, "", "`name` of the replica's queue (default: the file's)")
	f.StringArrayVar(&c.metrics, flagMetrics, nil, "`URL` that a relay or a consumer serves with --http, such as http://127.0.0.1:9464; once for each")
	f.DurationVar(&c.watch, "watch", 0, "show it again and again, with this `time` between, until interrupted")
	f.Lookup("watch").NoOptDefVal = "2s"
	return cmd
}

func (c *statusCommand) run(cmd *cobra.Command) error {
	if err := checkMetrics(c.metrics); err != nil {
		return err
	}
	file, err := c.sides(cmd)
	if err != nil {
		return err
	}
	if f := cmd.Flags().Lookup("watch"); f.Changed {
		if err := atLeast("watch", c.watch, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if c.queue, err = file.queueFor(c.queue); err != nil {
		return err
	}
	if c.unnamed() && c.databaseURL == "" && len(c.metrics) == 0 {
		return misusef("--%s is missing: name the replica's queue, there or in the file; or give --%s for the outbox", flagQueue, flagDatabase)
	}
	ctx := cmd.Context()
	for {
		s := c.look(ctx)
		switch err := ctx.Err(); { // what was asked then was not answered
		case err != nil && c.watch > 0:
			return nil
		case err != nil && len(s.Errors) > 0:
			return err
		}
		if err := c.show(cmd, s); err != nil || c.watch == 0 {
			return errors.Join(err, s.fault())
		}
		timer := time.NewTimer(c.watch)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// unnamed reports that there is a broker, such as a master's environment has for its
// relay, and no queue to ask it about.
func (c *statusCommand) unnamed() bool { return c.brokerURL != "" && c.queue == "" }

// sides is oneSide, unless there are processes to ask.
func (c *statusCommand) sides(cmd *cobra.Command) (*configFile, error) {
	if len(c.metrics) == 0 {
		return c.oneSide(cmd)
	}
	if err := c.fill(cmd); err != nil {
		return nil, err
	}
	return c.readConfig()
}

// oneSide fills the settings of a command that works with either side, or both.
func (s *settings) oneSide(cmd *cobra.Command) (*configFile, error) {
	if err := s.fill(cmd); err != nil {
		return nil, err
	}
	if s.databaseURL == "" && s.brokerURL == "" {
		return nil, misusef("--%s and --%s are missing: give at least one, or set %s or %s", flagDatabase, flagBroker, envDatabase, envBroker)
	}
	return s.readConfig()
}

// queueFor is the replica's queue: the flag's or the file's, or none.
func (f *configFile) queueFor(flag string) (string, error) {
	queue := f.queueOf(flag)
	if queue == "" {
		return "", nil
	}
	if err := event.ValidateName("the name", queue); err != nil {
		return "", misusef("--%s: %w", flagQueue, err)
	}
	return queue, nil
}

// status is both sides at a glance.
type status struct {
	Time   time.Time     `json:"time"`
	Outbox *outboxStatus `json:"outbox,omitempty"`
	Queue  *queueStatus  `json:"queue,omitempty"`
	// Processes are those that were asked.
	Processes []processStatus `json:"processes,omitempty"`
	Errors    []string        `json:"errors,omitempty"`
}

type outboxStatus struct {
	Pending int64   `json:"pending"`
	Oldest  float64 `json:"oldest_seconds"`
	// Failing are among those pending, Dead are not.
	Failing       int64         `json:"failing"`
	OldestFailing float64       `json:"oldest_failing_seconds"`
	Dead          int64         `json:"dead"`
	Shards        int           `json:"shards"`
	Leases        []leaseStatus `json:"leases"`
}

type leaseStatus struct {
	Shard    int     `json:"shard"`
	Holder   string  `json:"holder"`
	Held     bool    `json:"held"`
	Term     int64   `json:"term"`
	Position int64   `json:"position"`
	Left     float64 `json:"left_seconds"`
	Renewed  float64 `json:"renewed_seconds_ago"`
}

type queueStatus struct {
	Name        string `json:"name"`
	Messages    int    `json:"messages"`
	Consumers   int    `json:"consumers"`
	DeadLetters int    `json:"dead_letters"`
}

// look asks each side that is configured. A side that does not answer is among
// the errors, so that the other is shown all the same.
func (c *statusCommand) look(ctx context.Context) status {
	s := status{Time: time.Now().UTC()}
	if c.databaseURL != "" {
		o, err := c.lookAtOutbox(ctx)
		s.note(err)
		s.Outbox = o
	}
	if c.brokerURL != "" && c.queue != "" {
		q, err := c.lookAtQueue(ctx)
		s.note(err)
		s.Queue = q
	}
	for _, url := range c.metrics {
		p, err := askProcess(ctx, url)
		if s.note(err); err == nil {
			s.Processes = append(s.Processes, p)
		}
	}
	return s
}

func (s *status) note(err error) {
	if err != nil {
		s.Errors = append(s.Errors, err.Error())
	}
}

func (s *status) fault() error {
	if len(s.Errors) == 0 {
		return nil
	}
	return errors.New(strings.Join(s.Errors, "\n"))
}

func (c *statusCommand) lookAtOutbox(ctx context.Context) (*outboxStatus, error) {
	db, err := openDatabase(ctx, c.databaseURL)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	a, err := relay.NewAdmin(db.DB, db.dialect)
	if err != nil {
		return nil, err
	}
	o, err := a.Overview(ctx)
	switch {
	case dialect.IsForbidden(err):
		return nil, fmt.Errorf("%w: GRANT SELECT on it", err)
	case err != nil:
		return nil, fmt.Errorf("%w: is this the master's database, and was `relay migrate up` run?", err)
	}
	s := &outboxStatus{o.Pending, o.Oldest.Seconds(), o.Failing, o.OldestFailing.Seconds(), o.Dead, o.Shards, []leaseStatus{}}
	for _, l := range o.Leases {
		s.Leases = append(s.Leases, leaseStatus{l.Shard, l.Holder, l.Left > 0, l.Term, l.Position, max(l.Left, 0).Seconds(), l.Renewed.Seconds()})
	}
	return s, nil
}

func (c *statusCommand) lookAtQueue(ctx context.Context) (*queueStatus, error) {
	b, err := c.openBroker(ctx, broker.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.Close() }()
	box, ok := b.(broker.Letterbox)
	if !ok {
		return nil, errors.New("this broker cannot be looked into")
	}
	s := &queueStatus{Name: c.queue}
	if s.Messages, s.Consumers, err = box.Inspect(ctx, c.queue); err != nil {
		if isNoQueue(err) {
			err = fmt.Errorf("%w: no replica has consumed it yet, or it is called otherwise", err)
		}
		return nil, err
	}
	if s.DeadLetters, _, err = box.Inspect(ctx, event.DeadLetterQueue(c.queue)); err != nil && !isNoQueue(err) {
		return nil, err
	}
	return s, nil
}

func (c *statusCommand) show(cmd *cobra.Command, s status) error {
	if c.asJSON {
		return printJSON(cmd, s)
	}
	out := cmd.OutOrStdout()
	if c.watch > 0 {
		if isTerminal(out) {
			fmt.Fprint(out, "\x1b[H\x1b[2J") // the top of an empty screen
		}
		fmt.Fprintln(out, s.Time.Format(time.DateTime))
	}
	s.print(out)
	if c.unnamed() {
		fmt.Fprintf(out, "queue    none is named: --%s, or queue in the file, shows one\n", flagQueue)
	}
	if c.watch > 0 { // else they are the command's error
		for _, fault := range s.Errors {
			fmt.Fprintln(out, fault)
		}
	}
	return nil
}

func (s *status) print(out io.Writer) {
	if o := s.Outbox; o != nil {
		fmt.Fprintf(out, "outbox   %d pending", o.Pending)
		if o.Pending > 0 {
			fmt.Fprintf(out, ", the oldest for %v", seconds(o.Oldest))
		}
		if o.Failing > 0 {
			fmt.Fprintf(out, ", %d of them failing, the oldest for %v", o.Failing, seconds(o.OldestFailing))
		} else {
			fmt.Fprint(out, ", none failing")
		}
		fmt.Fprintf(out, "; %d dead\n", o.Dead)
		for _, l := range o.Leases {
			held := "held by"
			if !l.Held {
				held = "free, last held by"
			}
			fmt.Fprintf(out, "lease    shard %d of %d %s %s, term %d, renewed %v ago",
				l.Shard+1, max(o.Shards, l.Shard+1), held, l.Holder, l.Term, seconds(l.Renewed))
			if l.Position > 0 { // else it begins with the first row
				fmt.Fprintf(out, ", read up to id %d", l.Position)
			}
			fmt.Fprintln(out)
		}
		if len(o.Leases) == 0 {
			fmt.Fprintln(out, "lease    no relay has ever run on it")
		}
	}
	if q := s.Queue; q != nil {
		fmt.Fprintf(out, "queue    %s: %s, %s; %s\n", q.Name,
			howMany(q.Messages, "message"), howMany(q.Consumers, "consumer"), howMany(q.DeadLetters, "dead letter"))
	}
	for _, p := range s.Processes {
		p.print(out, s.Time)
	}
}

// seconds shows a number of seconds as people read it.
func seconds(n float64) time.Duration {
	d := time.Duration(n * float64(time.Second))
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}
