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
	url     string
	folders []string // of its programs
	env     []string
}

const nodeName = "lockstep-test@localhost" // the machine's own name may not resolve

// newNode makes a node with the lines of a rabbitmq.conf and with plugins, and starts it.
func newNode(t *testing.T, conf string, plugins ...string) *node {
	t.Helper()
	// Debian's programs in /usr/sbin change the user; those beside the library
	// are RabbitMQ's own.
	n := &node{folders: []string{"/usr/lib/rabbitmq/bin"}}
	program := func(name string) string { return program(t, name, "rabbitmq-server", n.folders...) }
	rabbit, epmd := program("rabbitmq-server"), program("epmd")
	dir := scratch(t, nil)
	for name, text := range map[string]string{"rabbitmq.conf": conf, "plugins": "[" + strings.Join(plugins, ",") + "]."} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port, names := freePort(t), strconv.Itoa(freePort(t))
	n.url = "amqp://guest:guest@" + loopback(port) + "/"
	n.env = append(os.Environ(),
		"HOME="+dir, // of the cookie
		"LANG=C.UTF-8",
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_NODENAME="+nodeName,
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_NODE_PORT="+strconv.Itoa(port),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(freePort(t)),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"),
		"RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "plugins"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
		"ERL_EPMD_PORT="+names, // a name server of the node's own, which ends with it
		"ERL_EPMD_ADDRESS=127.0.0.1",
	)
	n.server = server{name: "RabbitMQ", quit: syscall.SIGKILL}
	n.command = func() *exec.Cmd {
		// Erlang allocates a table as long as the limit of open files.
		cmd := exec.Command("sh", "-c", `ulimit -n 4096; "$1" -port "$2" -address 127.0.0.1 & exec "$3"`, "node", epmd, names, rabbit)
		cmd.Dir, cmd.Env = dir, n.env
		return cmd
	}
	n.ready = func() error {
		conn, err := amqp.Dial(n.url)
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	t.Cleanup(func() { n.end(t) })
	n.start(t)
	return n
}

// ctl runs rabbitmqctl on the node.
func (n *node) ctl(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "rabbitmqctl", "rabbitmq-server", n.folders...),
		append([]string{"--quiet", "--node", nodeName}, args...)...)
	cmd.Env = n.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rabbitmqctl %v: %v\n%s", args, err, out)
	}
}
