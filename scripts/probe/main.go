// Command probe tells whether a test server answers at an address and lets its user in. It is what
// scripts/services asks with, so that a server counts as ready exactly when the tests' own drivers
// can use it, and neither psql nor rabbitmqctl is needed for a server that is already there.
//
// Usage: probe postgres|rabbitmq|mariadb|nats URL. Exit codes: 0 usable, 1 not (yet) reachable,
// 2 reachable or wrongly addressed, and waiting will not help (credentials refused, no such database).
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/lib/pq"
	"github.com/nats-io/nats.go"
	amqp "github.com/rabbitmq/amqp091-go"
)

const timeout = 5 * time.Second

// errFinal marks trouble that does not go away by waiting.
var errFinal = errors.New("refused")

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: probe postgres|rabbitmq|mariadb|nats URL")
		os.Exit(2)
	}
	err := probe(os.Args[1], os.Args[2])
	switch {
	case errors.Is(err, errFinal):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func probe(server, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	u, err := url.Parse(address)
	if err != nil || u.Host == "" { // the parser's own text would quote the password
		return fmt.Errorf("%s: %w: the address is not a URL", server, errFinal)
	}
	switch server {
	case "postgres":
		err = postgres(ctx, address)
	case "rabbitmq":
		err = rabbitmq(address)
	case "mariadb":
		err = mariadb(ctx, u)
	case "nats":
		err = natsServer(address)
	default:
		return fmt.Errorf("%w: unknown server %q", errFinal, server)
	}
	if err != nil {
		return fmt.Errorf("%s at %s: %w", server, u.Redacted(), err)
	}
	return nil
}

// postgres also asks for the right to create schemas: every test has its own.
func postgres(ctx context.Context, address string) error {
	db, err := sql.Open("postgres", address)
	if err != nil {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	defer db.Close()

	var mayCreate bool
	err = db.QueryRowContext(ctx,
		`SELECT has_database_privilege(current_database(), 'CREATE')`).Scan(&mayCreate)
	var refused *pq.Error
	if errors.As(err, &refused) && (refused.Code.Class() == "28" || refused.Code.Class() == "3D") {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	if err == nil && !mayCreate {
		return fmt.Errorf("%w: the user may not create schemas in this database", errFinal)
	}
	return err
}

func rabbitmq(address string) error {
	conn, err := amqp.DialConfig(address, amqp.Config{Dial: amqp.DefaultDial(timeout)})
	var refused *amqp.Error
	if errors.As(err, &refused) && (refused.Code == amqp.AccessRefused || refused.Code == amqp.NotAllowed) {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	if err != nil {
		return err
	}
	return conn.Close()
}

// mariadb logs in and asks for the right to create databases: every test has its own.
func mariadb(ctx context.Context, u *url.URL) error {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.DBName, cfg.Timeout = "tcp", u.Host, strings.TrimPrefix(u.Path, "/"), timeout
	if u.Port() == "" {
		cfg.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.Logger = log.New(io.Discard, "", 0) // the error says it all
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()

	var mayCreate bool
	err = db.QueryRowContext(ctx, `
SELECT COUNT(*) > 0 FROM information_schema.user_privileges
WHERE privilege_type = 'CREATE' AND grantee LIKE CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@%')`).Scan(&mayCreate)
	var refused *mysql.MySQLError
	if errors.As(err, &refused) && (refused.Number == 1044 || refused.Number == 1045 || refused.Number == 1049 || refused.Number == 1698) {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	if err == nil && !mayCreate {
		return fmt.Errorf("%w: the user may not create databases", errFinal)
	}
	return err
}

// natsServer wants JetStream to be on, too.
func natsServer(address string) error {
	conn, err := nats.Connect(address, nats.Timeout(timeout))
	if errors.Is(err, nats.ErrAuthorization) {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		return err
	}
	if _, err := js.AccountInfo(); err != nil {
		return fmt.Errorf("%w: %w", errFinal, err)
	}
	return nil
}
