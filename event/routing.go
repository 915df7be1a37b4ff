package event

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// directPrefix starts every topic that addresses one queue instead of all.
const directPrefix = "cqrs."

// maxName keeps cqrs.dead_letter_<queue>.<cqrs_id> within the 255 bytes of an
// AMQP 0-9-1 routing key.
const maxName = 118

// maxTopic is what an AMQP 0-9-1 routing key holds.
const maxTopic = 255

// Topic returns the topic on which a master sends the events of an entity to
// every replica: the CQRS ID itself.
func Topic(cqrsID string) string { return cqrsID }

// DirectTopic returns the topic that reaches one queue only. A SYNC for one
// replica, a retry and a dead letter travel on it.
func DirectTopic(queue, cqrsID string) string { return directPrefix + queue + "." + cqrsID }

// DeadLetterQueue returns the name of the queue that holds the dead letters of
// the given queue.
func DeadLetterQueue(queue string) string { return "dead_letter_" + queue }

// QueueTopics returns the topics a replica's queue is bound to for one entity:
// the broadcast topic and the queue's own.
func QueueTopics(queue, cqrsID string) []string {
	return []string{Topic(cqrsID), DirectTopic(queue, cqrsID)}
}

// EntityOf returns the CQRS ID a topic speaks of, for broadcast and direct
// topics alike, so that events of one entity and key can be kept in order
// whichever topic they leave on.
func EntityOf(topic string) string {
	if !IsDirect(topic) {
		return topic
	}
	return topic[strings.LastIndexByte(topic, '.')+1:]
}

// IsDirect reports whether the topic addresses a single queue.
func IsDirect(topic string) bool {
	return strings.HasPrefix(topic, directPrefix) && strings.Count(topic, ".") >= 2
}

// ValidateName reports why a CQRS ID or a queue name cannot be part of a topic
// on every broker, or nil when it can. what names the thing in the error.
func ValidateName(what, name string) error { return validate(what, name, maxName) }

// ValidateTopic reports why a topic cannot be published on with every broker,
// or nil when it can. Unlike a name, it may be a direct topic and as long as one.
func ValidateTopic(topic string) error { return validate("topic", topic, maxTopic) }

func validate(what, name string, most int) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > most:
		return fmt.Errorf("%s %.20q… is longer than %d bytes", what, name, most)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s %q is not UTF-8", what, name)
	case strings.ContainsAny(name, "*#>"):
		return fmt.Errorf("%s %q contains one of * # >, which brokers read as wildcards", what, name)
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return fmt.Errorf("%s %q contains white space or an unprintable character", what, name)
	}
	return nil
}

// Unwanted reports whether err says that no queue is bound to a broadcast topic.
// A publisher may take that for success, for an entity need not have a replica;
// a message to a single queue has to reach it.
func Unwanted(topic string, err error) bool {
	var unroutable interface {
		error
		Unroutable() bool
	}
	return !IsDirect(topic) && errors.As(err, &unroutable) && unroutable.Unroutable()
}
