package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUnplugOrder: the links go down before the machine starts, and a refusal starts nothing.
func TestUnplugOrder(t *testing.T) {
	for _, c := range []struct{ refuse, want string }{
		{"", "qmp_capabilities set_link=lan set_link=wan cont"},
		{"set_link", "qmp_capabilities set_link=lan"},
	} {
		ours, theirs, err := controlPair()
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string)
		go func() {
			defer theirs.Close()
			var names []string
			in := json.NewDecoder(theirs)
			answer := `{"QMP": {}}`
			for {
				theirs.Write([]byte(answer + "\n"))
				var cmd struct {
					Execute   string
					Arguments map[string]any
				}
				if in.Decode(&cmd) != nil {
					break
				}
				name := cmd.Execute
				if cmd.Arguments["up"] == false {
					name += "=" + cmd.Arguments["name"].(string)
				}
				names = append(names, name)
				answer = `{"event": "RESUME"} {"return": {}}`
				if cmd.Execute == c.refuse {
					answer = `{"error": {"class": "DeviceNotFound", "desc": "no such card"}}`
				}
			}
			got <- strings.Join(names, " ")
		}()
		err = unplug(ours, []string{"lan", "wan"})
		ours.Close()
		if (err != nil) != (c.refuse != "") || err != nil && !strings.Contains(err.Error(), "no such card") {
			t.Errorf("refuse %q: got %v", c.refuse, err)
		}
		if got := <-got; got != c.want {
			t.Errorf("refuse %q: got %s, want %s", c.refuse, got, c.want)
		}
	}
}

// TestUnpluggedMachineRuns: the real QEMU takes the commands, and the machine runs after them.
func TestUnpluggedMachineRuns(t *testing.T) {
	b := malta(t)
	if _, err := exec.LookPath(b.QEMU.Binary); err != nil {
		t.Skipf("missing capability: the program %s", b.QEMU.Binary)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"kernel": loopForever(), "rootfs.squashfs": make([]byte, 4096), "data": make([]byte, 4096)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{
		Board: b, Dir: dir, Data: filepath.Join(dir, "data"), Serial: Console{"file", "/dev/null"},
		LAN: Net{Kind: None}, WAN: Net{Kind: None}, QMP: filepath.Join(dir, "qmp"),
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var said bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o, Streams{Out: &said, Err: &said}) }()
	status := ""
	for status != "running" && ctx.Err() == nil && len(done) == 0 {
		time.Sleep(20 * time.Millisecond)
		status = queryStatus(o.QMP)
	}
	cancel()
	if err := <-done; err != nil || status != "running" {
		t.Errorf("the machine is %q, want running: %v\n%s", status, err, said.String())
	}
}

// queryStatus asks QEMU whether the machine runs; no answer is "".
func queryStatus(path string) string {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	conn.Write([]byte(`{"execute":"qmp_capabilities"}{"execute":"query-status"}`))
	for in := json.NewDecoder(conn); ; {
		var r struct{ Return struct{ Status string } }
		if in.Decode(&r) != nil || r.Return.Status != "" {
			return r.Return.Status
		}
	}
}
