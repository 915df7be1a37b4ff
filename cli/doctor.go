package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/relay"
)

// Levels of a finding.
const (
	levelOK    = "ok"
	levelWrong = "wrong"
	levelNote  = "note" // not checked, or nothing to be done now
)

// finding is what a check found.
type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// doctor is `relay doctor`.
type doctor struct {
	settings
	replicaURL string
	queue      string
	management string
	after      time.Duration
	findings   []finding

	lease   time.Duration // of the relay that works; 0 when none does
	publish time.Duration // that the broker took to confirm a message; 0 when not known
}

func newDoctor(svc *service) *cobra.Command {
	d := &doctor{settings: settings{service: svc}}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with the configuration, the databases and the broker",
		Long: `Look for what is wrong with the configuration, the databases and the broker, and
say what to do about it: migrations, permissions, columns, exchange and queue
arguments, entities whose events go nowhere, clocks, old transactions, leases,
stuck messages, MySQL's SQL mode, retention. Nothing is changed; one message that
no queue gets is published, to see how long a confirmation takes.

Each side is looked at if it is configured. The exit code is 1 when something is
wrong.`,
		Example: `  relay doctor --config lockstep.yaml --database-url postgres://localhost/shop --broker-url amqp://localhost/
  relay doctor --database-url postgres://localhost/shop --json
  relay doctor --config lockstep.yaml --broker-url amqp://localhost/ --management-url http://localhost:15672`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd) },
	}
	d.databaseFlag(cmd)
	d.brokerFlag(cmd)
	d.configFlag(cmd)
	d.jsonFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&d.replicaURL, flagReplica, "", "`URL` of the replica's database, if it is another")
	f.StringVar(&d.queue, flagQueue, "", "`name` of the replica's queue (default: the file's)")
	f.StringVar(&d.management, "management-url", "", "`URL` of RabbitMQ's management, which alone knows what is bound; user and password are the broker's, unless it has its own")
	f.DurationVar(&d.after, "stuck-after", 10*time.Minute, "`time` after which a message or a transaction counts as stuck")
	return cmd
}

func (d *doctor) run(cmd *cobra.Command) error {
	if err := errors.Join(d.fill(cmd), atLeast("stuck-after", d.after, time.Second), checkOptionalURL(flagReplica, d.replicaURL), d.checkManagement()); err != nil {
		return err
	}
	if d.databaseURL == "" && d.brokerURL == "" && d.replicaURL == "" {
		_, err := d.oneSide(cmd)
		return err
	}
	file := d.configuration()
	ctx := cmd.Context()
	queue, err := file.queueFor(d.queue)
	if err != nil {
		return err
	}
	d.databases(ctx, file)
	if d.brokerURL != "" {
		d.broker(ctx, file, queue)
	}
	d.leaseAgainstPublish()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return d.report(cmd)
}

func (d *doctor) add(check, level, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{check, level, fmt.Sprintf(format, args...), remedy})
}

// judge adds what a check found: nothing wrong, or an error, whose text has a remedy
// of its own when none is given.
func (d *doctor) judge(check string, err error, fine, remedy string) {
	if err != nil {
		d.add(check, levelWrong, remedy, "%v", err)
		return
	}
	d.add(check, levelOK, "", "%s", fine)
}

// configuration reads the file; a faulty one is a finding, and what needs no file is
// looked at all the same.
func (d *doctor) configuration() *configFile {
	file, err := d.readConfig()
	if err == nil {
		err = file.checkRetention()
	}
	d.judge("configuration", err, "can be read, and nothing in it contradicts itself", "correct the file")
	if file == nil {
		file = &configFile{}
	}
	return file
}

// checkRetention declares the replicas as consume does, which refuses tombstones that
// end sooner than a message or dead letter may come back.
func (f *configFile) checkRetention() error {
	if !f.hasReplicas() {
		return nil
	}
	cfg, err := f.consuming()
	if err != nil {
		return err
	}
	return f.declareTo(cfg)
}

func (d *doctor) leaseAgainstPublish() {
	if d.lease == 0 || d.publish == 0 {
		return
	}
	d.findings = append(d.findings, leaseFinding(d.lease, d.publish))
}

// leaseFinding holds a lease against the time that a publication takes. A relay
// renews at a third of its lease.
func leaseFinding(lease, publish time.Duration) finding {
	f := finding{Check: "lease", Level: levelOK, What: fmt.Sprintf("a lease of about %v, and the broker confirms a message in %v",
		lease.Round(100*time.Millisecond), publish.Round(time.Millisecond))}
	if publish > lease/3 {
		f.Level, f.Remedy = levelWrong, "give `relay run` a longer --lease, or see why the broker is slow"
		f.What += ": another relay may take over while one waits"
	}
	return f
}

// maxClockDifference is what clocks may be apart.
const maxClockDifference = 2 * time.Second

// clockFinding compares a clock with this machine's.
func clockFinding(whose string, theirs, ours time.Time) finding {
	apart := theirs.Sub(ours).Round(time.Millisecond)
	f := finding{Check: "clock", Level: levelOK, What: fmt.Sprintf("%s is %v from this machine's", whose, apart)}
	if apart.Abs() > maxClockDifference {
		f.Level, f.Remedy = levelWrong, "let both machines follow a time server: expiry and lag go by several clocks"
	}
	return f
}

// outboxFindings judge how an outbox stands.
func (d *doctor) outboxFindings(o relay.Overview, first *relay.Failure) {
	held := false
	for _, l := range o.Leases {
		if l.Left > 0 {
			held, d.lease = true, l.Left+l.Renewed
		}
	}
	switch {
	case held:
		d.add("relay", levelOK, "", "a relay holds the lease")
	case o.Pending > 0:
		d.add("relay", levelWrong, "start `relay run` on this database", "%s %s pending, and no relay holds the lease", howMany(o.Pending, "message"), plural(o.Pending, "is", "are"))
	default:
		d.add("relay", levelNote, "", "no relay holds the lease, and nothing is pending")
	}
	switch {
	case first != nil:
		d.add("stuck", levelWrong, "mend what the broker says, then `relay failures retry`; the relay tries again by itself, too, and gives up after --max-attempts",
			"%s %s failing; the first is id %d, %s, after %s: %s",
			howMany(o.Failing, "message"), plural(o.Failing, "is", "are"), first.ID, first.Topic, howMany(first.Attempts, "attempt"), first.Error)
	case o.Oldest > d.after:
		d.add("stuck", levelWrong, "see the relay's log: is the broker away, or the relay behind?",
			"%s %s pending, the oldest for %v", howMany(o.Pending, "message"), plural(o.Pending, "is", "are"), o.Oldest.Round(time.Second))
	default:
		d.add("stuck", levelOK, "", "no message is failing, and none is pending for longer than %v", d.after)
	}
	if o.Dead > 0 {
		d.add("dead letters", levelNote, "see `relay dead-letters list --outbox`", "the relay has given up %s", howMany(o.Dead, "message"))
	}
}

func (d *doctor) report(cmd *cobra.Command) error {
	wrong := 0
	for _, f := range d.findings {
		if f.Level == levelWrong {
			wrong++
		}
	}
	if d.asJSON {
		if err := printJSON(cmd, struct {
			Wrong    int       `json:"wrong"`
			Findings []finding `json:"findings"`
		}{wrong, d.findings}); err != nil {
			return err
		}
	} else {
		d.print(cmd)
	}
	if wrong > 0 {
		return fmt.Errorf("%s something to be done", howMany(wrong, "finding")+plural(wrong, " needs", " need"))
	}
	return nil
}

func (d *doctor) print(cmd *cobra.Command) {
	out := cmd.OutOrStdout()
	for _, f := range d.findings {
		fmt.Fprintf(out, "%-5s  %s: %s\n", f.Level, f.Check, f.What)
		if f.Remedy != "" {
			fmt.Fprintf(out, "       → %s\n", f.Remedy)
		}
	}
}

// broker looks at the broker's side.
func (d *doctor) broker(ctx context.Context, file *configFile, queue string) {
	b, err := d.openBroker(ctx, broker.Options{})
	d.judge("broker", err, "can be reached, and the exchange is as it has to be",
		"start it or correct the URL if it cannot be reached; if its exchange or stream has other arguments, delete that while nobody publishes: it is declared anew")
	if err != nil {
		return
	}
	defer func() { _ = b.Close() }()
	d.confirmation(b)
	d.queues(ctx, b, queue)
	d.routes(ctx, b, file)
}
