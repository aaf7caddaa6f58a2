package edge

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/shell"
)

// line is a serial line: a pseudo terminal whose other end the test holds.
func line(t *testing.T) (k *talk, tty string) {
	t.Helper()
	needRoot(t)
	master, slave, err := openPTY()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	return newTalk(t, master, master), slave.Name()
}

func TestSerialClaimAndLogin(t *testing.T) {
	k, tty := line(t)
	r := newRig(t, tty, time.Hour) // the window of SSH is no matter here
	k.expect("Press Enter to begin.")
	k.send("\r")
	k.expect(shell.Greeting)
	k.expect("New password, or key: ")
	k.send("\x03")
	k.expect("New password, or key: ")
	k.send(password + "\r")
	k.expect("Once more: ")
	k.send("something else\r")
	k.expect("The two differ")
	k.send(password + "\r")
	k.expect("Once more: ")
	k.send(password + "\r")
	k.expect("The router is yours.")
	k.expect("SSH host key: SHA256:")
	k.expect("Claimed on")
	k.expect("by serial with password")
	k.expect("culvert> ")
	k.send("show ver\t\r")
	k.expect("Culvert 0.1 on test")
	k.send("ping 192.168.1.1 1000\r")
	k.expect("1: answer from 192.168.1.1")
	k.send("\x03")
	k.expect("culvert> ")
	k.send("traceroute culvert.lan\r")
	k.expect(" 1  192.168.1.1 ")
	k.expect("culvert> ")
	k.send("ping nowhere.example\r")
	k.expect("nowhere.example: no name server is known yet")
	k.send("exit\r")
	if c := r.Claim(); c == nil || c.Author.Via != "serial" {
		t.Fatalf("claim: %+v", c)
	}
	await(t, "the claim reaches edge", func() bool { return r.edge.cfg.Load().Claimed })

	k.expect("Press Enter to begin.")
	k.send("\r")
	k.expect("Password of admin: ")
	k.send("wrong\r")
	k.expect("That is not the password.")
	k.send(password + "\r")
	k.expect("culvert> ")
	k.send("\x04")
	k.expect("Press Enter to begin.")
	if strings.Contains(k.seen(), password) {
		t.Error("the password was shown")
	}
}

// TestSerialWithKeysOnly: the line is open and says so, until a password is set.
func TestSerialWithKeysOnly(t *testing.T) {
	k, tty := line(t)
	r := newRig(t, tty, time.Minute)
	r.Answers[api.MethodStatus] = api.Status{Hostname: "culvert", Claimed: true}
	r.Netd.Stop()
	r.Start(t) // with that answer
	r.ownByKey(t)
	k.expect("Press Enter to begin.")
	k.send("\x04\r") // Ctrl-D is nothing here
	k.expect("The serial line is open: no password is set, only SSH keys, so whoever holds this cable is the admin. Close it with: password")
	if n := strings.Count(k.seen(), "Press Enter"); n != 1 {
		t.Errorf("Ctrl-D began %d visits", n)
	}
	k.expect("culvert> ")
	k.send("show status\r")
	k.expect("Serial     open, because no password is set; close it with: password")
	k.expect("culvert> ")
	k.send("password\r")
	k.expect("New password (12 characters or more): ")
	k.send(password + "\r")
	k.expect("Once more: ")
	k.send(password + "\r")
	k.expect("The password is changed.")
	await(t, "the password reaches edge", func() bool { return r.edge.cfg.Load().Password != "" })
	k.send("show status\r")
	k.expect("Settings ")
	k.expect("Internet ")
	k.expect("culvert> ")
	if got := k.seen(); strings.Contains(got[strings.LastIndex(got, "Settings "):], "Serial ") {
		t.Errorf("show status with a password:\n%s", got)
	}
	k.send("exit\r")
	k.expect("Press Enter to begin.")
	k.send("\r")
	k.expect("Password of admin: ")
	if got := k.seen(); strings.Contains(got[strings.LastIndex(got, "Press Enter"):], "is open") {
		t.Errorf("with a password:\n%s", got)
	}
}

func TestToolbox(t *testing.T) {
	k, tty := line(t)
	r := newRig(t, tty, time.Minute)
	r.ownByKey(t)
	k.expect("Press Enter to begin.")
	k.send("\r")
	k.expect("culvert> ")
	k.send("toolbox\r")
	k.expect("Leave it with: exit")
	k.send("tty; echo $((6*7))\r")
	k.expect("/dev/pts/")
	k.expect("42")
	k.send("echo go$((1)); sleep 1000\r")
	k.expect("go1")
	k.send("\x03") // it is the program's here
	k.expect("# ")
	k.send("echo inter$((1))rupted\r")
	k.expect("inter1rupted")
	k.send("exit\r")
	k.expect("culvert> ")
	k.send("show version\r")
	k.expect("Culvert 0.1")

	out, err := r.run(t, "", "typed in\n", "admin@192.168.1.1", "toolbox cat")
	if err != nil || out != "typed in\n" {
		t.Errorf("toolbox cat: %q, %v", out, err)
	}
	if out, err := r.run(t, "", "", "admin@192.168.1.1", "toolbox exit 3"); err == nil {
		t.Errorf("toolbox exit 3: status 0, %q", out)
	}
}
