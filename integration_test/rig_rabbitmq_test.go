package integration_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// node is a RabbitMQ of the test's own.
type node struct {
	server
	name    string // Erlang's
	address string
	url     string
	folders []string // of its programs
	env     []string
}

// newNode makes a node with the lines of a rabbitmq.conf and with plugins, and starts it.
func newNode(t *testing.T, conf string, plugins ...string) *node {
	t.Helper()
	n := makeNode(t, "lockstep-test", scratch(t, nil), startNames(t), conf, plugins...)
	t.Cleanup(func() { n.end(t) })
	n.start(t)
	return n
}

// startNames starts the server that Erlang's nodes find each other by, and returns its
// port.
func startNames(t *testing.T) int {
	t.Helper()
	epmd, port := program(t, "epmd", "rabbitmq-server"), freePort(t)
	s := &server{name: "epmd", quit: syscall.SIGKILL, ready: func() error { return listens(port) }}
	s.command = func() *exec.Cmd { return exec.Command(epmd, "-port", strconv.Itoa(port), "-address", "127.0.0.1") }
	t.Cleanup(func() { s.end(t) })
	s.start(t)
	return port
}

// makeNode makes a node that keeps its files in dir, under its name, and finds others
// by the name server on a port.
func makeNode(t *testing.T, name, dir string, names int, conf string, plugins ...string) *node {
	t.Helper()
	// Debian's programs in /usr/sbin change the user; those beside the library
	// are RabbitMQ's own.
	n := &node{folders: []string{"/usr/lib/rabbitmq/bin"}}
	n.name = name + "@localhost" // the machine's own name may not resolve
	rabbit := program(t, "rabbitmq-server", "rabbitmq-server", n.folders...)
	own := filepath.Join(dir, name)
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"rabbitmq.conf": conf, "plugins": "[" + strings.Join(plugins, ",") + "]."} {
		if err := os.WriteFile(filepath.Join(own, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	n.address = loopback(port)
	n.url = "amqp://guest:guest@" + n.address + "/"
	n.env = append(os.Environ(),
		"HOME="+dir, // of the cookie
		"LANG=C.UTF-8",
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_NODENAME="+n.name,
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT="+strconv.Itoa(port),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(freePort(t)),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(own, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(own, "log"),
		"RABBITMQ_PID_FILE="+filepath.Join(own, "pid"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(own, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(own, "plugins"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
		"ERL_EPMD_PORT="+strconv.Itoa(names),
		"ERL_EPMD_ADDRESS=127.0.0.1",
	)
	n.server = server{name: "RabbitMQ " + name, quit: syscall.SIGKILL}
	n.command = func() *exec.Cmd {
		// Erlang allocates a table as long as the limit of open files.
		cmd := exec.Command("sh", "-c", `ulimit -n 4096; exec "$1"`, "node", rabbit)
		cmd.Dir, cmd.Env = own, n.env
		return cmd
	}
	n.ready = func() error {
		conn, err := amqp.Dial(n.url)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	return n
}

// ctl runs rabbitmqctl on the node and returns what it prints.
func (n *node) ctl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "rabbitmqctl", "rabbitmq-server", n.folders...),
		append([]string{"--quiet", "--node", n.name}, args...)...)
	cmd.Env = n.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("rabbitmqctl %v: %v\n%s", args, err, out)
	}
	return string(out)
}
