package vm

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// cablesFD is QEMU's end of the control socket: the first file after the standard streams.
const cablesFD = 3

// unplugLimit is how long QEMU may take to start and answer.
const unplugLimit = time.Minute

// unplugged names the network cards without a cable.
func (o *Options) unplugged() []string {
	var roles []string
	if o.LAN.Kind == None {
		roles = append(roles, "lan")
	}
	if o.WAN.Kind == None {
		roles = append(roles, "wan")
	}
	return roles
}

// controlPair returns the two ends of a control socket: ours, and the one that QEMU inherits.
func controlPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("QEMU's control socket: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "control")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "QEMU's control")
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("QEMU's control socket: %w", err)
	}
	return ours, theirs, nil
}

// unplug turns the links of the named cards off and starts the machine, which waits for it (-S).
// No argument of QEMU gives a card without a link: only its control protocol, QMP, can do that.
func unplug(conn net.Conn, roles []string) error {
	if err := conn.SetDeadline(time.Now().Add(unplugLimit)); err != nil {
		return err
	}
	type object = map[string]any
	commands := []object{{"execute": "qmp_capabilities"}}
	for _, r := range roles {
		commands = append(commands, object{"execute": "set_link", "arguments": object{"name": r, "up": false}})
	}
	commands = append(commands, object{"execute": "cont"})
	replies := json.NewDecoder(conn)
	for _, c := range commands {
		if err := execute(conn, replies, c); err != nil {
			return fmt.Errorf("turning off the link of %v: QMP %v: %w", roles, c["execute"], err)
		}
	}
	return nil
}

// execute sends one QMP command and waits for its answer; the greeting and events may come first.
func execute(w io.Writer, replies *json.Decoder, command any) error {
	if err := json.NewEncoder(w).Encode(command); err != nil {
		return err
	}
	for {
		var r struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		switch err := replies.Decode(&r); {
		case err != nil:
			return err
		case r.Error != nil:
			return fmt.Errorf("%s", r.Error.Desc)
		case r.Return != nil:
			return nil
		}
	}
}
