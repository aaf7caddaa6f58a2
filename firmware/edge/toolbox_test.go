package edge

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// onPTY starts the OpenSSH client on a terminal whose other end it returns.
func (r *rig) onPTY(t *testing.T, args ...string) (k *talk, pty *os.File) {
	t.Helper()
	master, slave, err := openPTY()
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.ssh(t, "", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	resize(master, 80, 24)
	err = cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); master.Close() }) //nolint:errcheck // ended either way
	return newTalk(t, master, master), master
}

// TestToolboxResize: the toolbox's terminal has the size of the person's, at
// the start and after each change, and the shell after it too.
func TestToolboxResize(t *testing.T) {
	need(t, "stty")
	r := newRig(t, "", time.Minute)
	r.ownByKey(t)
	k, pty := r.onPTY(t, "admin@192.168.1.1")
	k.expect("culvert> ")
	resize(pty, 100, 30)
	k.send("toolbox\r")
	k.expect("Leave it with: exit")
	for _, size := range []struct {
		w, h int
		want string
	}{{100, 30, "size 30 100\r\n"}, {132, 50, "size 50 132\r\n"}, {40, 12, "size 12 40\r\n"}} {
		resize(pty, size.w, size.h)
		// The change and the keys take different ways through the client.
		k.send("i=0; until [ \"$(stty size)\" = '" + size.want[5:len(size.want)-2] + "' ] || [ $i = 100 ]; do sleep 0.1; i=$((i+1)); done; echo si\"\"ze $(stty size)\r")
		k.expect(size.want)
	}
	k.send("trap 'echo got win\"\"ch' WINCH; echo rea\"\"dy\r")
	k.expect("ready\r\n")
	resize(pty, 90, 25)
	await(t, "the shell learns of the new size", func() bool {
		k.send("\r")
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(k.seen(), "got winch\r\n")
	})
	k.send("exit\r")
	k.expect("culvert> ")
}
