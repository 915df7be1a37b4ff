package dialect

// AllOutbox reads the whole outbox in order, on every database. Its columns are
// to be told by their names.
const AllOutbox = `SELECT * FROM outbox ORDER BY id`

// Nothing is a statement without effect, on every database.
const Nothing = `SELECT 1`
