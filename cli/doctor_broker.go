package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
)

// confirmation publishes a message that no queue gets.
func (d *doctor) confirmation(b broker.Broker) {
	id := uuid.NewString()
	began := time.Now()
	err := b.Publish("lockstep-doctor-"+id, message.NewMessage(id, []byte("{}")))
	if d.publish = time.Since(began); err != nil {
		d.publish = 0
	}
	d.judge("publish", err, "the broker confirms", "give the user the right to write to the exchange, and see what blocks the broker")
}

// queues looks at the replica's queues, which are declared again only if they are
// there: that changes nothing, and fails when their arguments are others.
func (d *doctor) queues(ctx context.Context, b broker.Broker, queue string) {
	box, ok := b.(broker.Letterbox)
	if !ok || queue == "" {
		return
	}
	for _, name := range []string{queue, event.DeadLetterQueue(queue)} {
		messages, consumers, err := box.Inspect(ctx, name)
		if isNoQueue(err) {
			d.add("queue", levelNote, "it is made by the first `relay consume`", "%s does not exist", name)
			continue
		}
		if err == nil {
			err = b.Bind(ctx, name)
		}
		d.judge("queue", err, fmt.Sprintf("%s has the right arguments, %s and %s", name, howMany(messages, "message"), howMany(consumers, "consumer")),
			"let it run empty, delete it and start the consumer again: a queue's arguments cannot be changed")
		if err == nil && name == queue && consumers == 0 && messages > 0 {
			d.add("consumer", levelWrong, "start `relay consume`, or the service that consumes the queue",
				"%s %s in %s, and nobody consumes it", howMany(messages, "message"), plural(messages, "waits", "wait"), name)
		}
	}
}

// prober is a broker that knows its bindings.
type prober interface {
	Bound(ctx context.Context, topic string) (bool, error)
}

// routes looks for entities whose events go nowhere.
func (d *doctor) routes(ctx context.Context, b broker.Broker, file *configFile) {
	if !file.hasEntities() {
		return
	}
	ids := slices.Sorted(maps.Keys(file.Entities))
	for _, e := range file.declared() {
		ids = append(ids, e.ID)
	}
	bound, err := d.binding(ctx, b)
	switch {
	case err != nil:
		d.add("routes", levelWrong, "correct --management-url, or leave it out", "the bindings cannot be read: %v", err)
		return
	case bound == nil:
		d.add("routes", levelNote, "give --management-url", "RabbitMQ tells only its management what is bound: not checked")
		return
	}
	for _, id := range ids {
		switch is, err := bound(id); {
		case err != nil:
			d.judge("routes", err, "", "")
		case is:
			d.add("routes", levelOK, "", "a queue is bound to entity %s", id)
		default:
			d.add("routes", levelWrong, "start a replica that follows it, or take the entity out of the configuration",
				"no queue is bound to entity %s: its events go nowhere", id)
		}
	}
}

// binding returns what tells whether a queue gets a topic, or nil.
func (d *doctor) binding(ctx context.Context, b broker.Broker) (func(topic string) (bool, error), error) {
	if p, ok := b.(prober); ok {
		return func(topic string) (bool, error) { return p.Bound(ctx, topic) }, nil
	}
	if d.management == "" {
		return nil, nil //nolint:nilnil // nothing tells, and that is no fault
	}
	keys, err := d.bindingKeys(ctx)
	if err != nil {
		return nil, err
	}
	return func(topic string) (bool, error) {
		return slices.ContainsFunc(keys, func(key string) bool { return matches(key, topic) }), nil
	}, nil
}

// matches reports whether a binding of a topic exchange gets a topic.
func matches(key, topic string) bool {
	return matchWords(strings.Split(key, "."), strings.Split(topic, "."))
}

func matchWords(key, topic []string) bool {
	switch {
	case len(key) == 0:
		return len(topic) == 0
	case key[0] == "#":
		return matchWords(key[1:], topic) || len(topic) > 0 && matchWords(key, topic[1:])
	case len(topic) == 0:
		return false
	}
	return (key[0] == "*" || key[0] == topic[0]) && matchWords(key[1:], topic[1:])
}

func (d *doctor) checkManagement() error {
	if d.management == "" {
		return nil
	}
	if _, err := parseWebURL(d.management); err != nil {
		return misusef("--management-url: use http://host:15672")
	}
	return nil
}

// maxBindings bounds what is read of the management's answer, in bytes.
const maxBindings = 64 << 20

// bindingKeys asks RabbitMQ's management for the exchange's bindings.
func (d *doctor) bindingKeys(ctx context.Context) ([]string, error) {
	at, err := url.Parse(strings.TrimSuffix(d.management, "/"))
	if err != nil {
		return nil, errUnreadable
	}
	server, err := url.Parse(d.brokerURL)
	if err != nil {
		server = &url.URL{} // several hosts: the management's URL has to have its own user
	}
	user := at.User
	if user == nil {
		user = server.User
	}
	vhost, exchange := strings.TrimPrefix(server.Path, "/"), server.Query().Get("exchange")
	if vhost == "" {
		vhost = "/"
	}
	if exchange == "" {
		exchange = "cqrs"
	}
	at.User = nil
	var bindings []struct {
		Key string `json:"routing_key"`
	}
	err = get(ctx, at.String()+"/api/exchanges/"+url.PathEscape(vhost)+"/"+url.PathEscape(exchange)+"/bindings/source", user, func(answer io.Reader) error {
		return json.NewDecoder(io.LimitReader(answer, maxBindings)).Decode(&bindings)
	})
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(bindings))
	for i, b := range bindings {
		keys[i] = b.Key
	}
	return keys, nil
}
