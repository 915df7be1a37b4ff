package cli

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/lockstep-go/lockstep/migrations"
)

// parseMySQLURL reads mysql://user:password@host:port/name. What a session has to
// be like is ours to say, so all that the URL may add is tls.
func parseMySQLURL(raw string) (databaseURL, error) {
	u, err := parseServerURL(raw)
	if err != nil {
		return databaseURL{}, err
	}
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	if u.Port() == "" {
		cfg.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	if u.Hostname() == "" || cfg.DBName == "" || strings.Contains(cfg.DBName, "/") {
		return databaseURL{}, errors.New("the URL names no database: use mysql://user:password@host:3306/name")
	}
	q := u.Query()
	cfg.TLSConfig = q.Get("tls")
	q.Del("tls")
	if len(q) > 0 {
		names := strings.Join(slices.Sorted(maps.Keys(q)), ", ")
		return databaseURL{}, fmt.Errorf("a mysql:// URL takes no parameter %s: character set, SQL mode and time zone are set already; there is only tls", names)
	}
	switch cfg.TLSConfig {
	case "", "true", "false", "skip-verify", "preferred":
	default:
		return databaseURL{}, errors.New("tls is none of true, false, skip-verify, preferred")
	}
	cfg.Timeout = connectTimeout
	cfg.InterpolateParams = true // a round trip less than preparing each statement
	if err := cfg.Apply(mysql.Charset("utf8mb4", "")); err != nil {
		return databaseURL{}, err
	}
	cfg.Params = map[string]string{
		"time_zone": "'+00:00'",
		"sql_mode":  "'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
	}
	return databaseURL{migrations.MySQL, cfg.FormatDSN(), shown(u)}, nil
}

// mysqlPool keeps the driver from writing to stderr: its errors say the same.
func mysqlPool(dsn string) (*sql.DB, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}
