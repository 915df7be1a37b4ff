// Package outboxtest helps the tests of services that use Lockstep. Of a master it
// says which events were written, in the transaction or the database that the
// test runs on; to a replica's consumer it delivers events, see [Delivery]. It
// works on every database Lockstep knows.
//
//	err := ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
//		if err := service.Rename(ctx, tx, 42, "Ada"); err != nil {
//			return err
//		}
//		outboxtest.RequireEvent(t, tx, outboxtest.Event{Entity: "account", Key: "42", Data: map[string]any{"name": "Ada"}})
//		return errors.New("roll back, the test has seen enough")
//	})
//
// A wanted event states only what the test is about: fields that are left at
// their zero value are not compared. Nothing is changed in the outbox, and no
// relay may run on it while a test looks.
package outboxtest
