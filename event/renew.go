package event

import "time"

// DefaultLife is how long an event is of use where nothing else is known: as long
// as django-cqrs's are by default.
const DefaultLife = 24 * time.Hour

// Life returns how long an event that was made at born was of use when it was sent,
// in whole seconds, as expires is written. It is 0 for one that never expires, and
// [DefaultLife] if born is zero or not before the expiry.
func (e *Event) Life(born time.Time) time.Duration {
	if e.Expires.IsZero() {
		return 0
	}
	if life := e.Expires.Sub(born); !born.IsZero() && life > 0 {
		return (life + time.Second - 1).Truncate(time.Second)
	}
	return DefaultLife
}

// Renew makes an event fit to be sent once more by hand: it has not been tried, and
// if it expires, it does so only a life from now. Both go together: with its old
// expiry it would be a dead letter again at once.
func (e *Event) Renew(now time.Time, life time.Duration) {
	e.Retries = 0
	if !e.Expires.IsZero() {
		e.Expires = now.Add(life)
	}
}
