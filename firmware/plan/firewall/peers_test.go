package firewall_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/kernel/nft/nettest"
	"github.com/culvert-fw/culvert/firmware/transcript"
)

// needTUN skips the test where tunnels of user space can't be.
func needTUN(t *testing.T, programs ...string) {
	t.Helper()
	nettest.Need(t, append(programs, "ping")...)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("missing capability: /dev/net/tun")
	}
}

// program runs a program until the end of the test, or stop is called.
func program(t *testing.T, ns *nettest.NS, name string, args ...string) (out *transcript.Buffer, stop func()) {
	t.Helper()
	out = &transcript.Buffer{}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	var err error
	ns.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s %v:\n%s", name, args, out.String())
		}
	})
	return out, stop
}

// until waits for something.
func until(t *testing.T, what string, wait time.Duration, is func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, wait)
		}
	}
}

// ping tells whether one of two pings, a second apart, is answered.
func ping(ns *nettest.NS, dev, to string) bool {
	_, err := ns.Output("", "ping", "-I", dev, "-c", "2", "-W", "1", to)
	return err == nil
}

// TestWireGuard has WireGuard itself, at a port of its own: off ends the tunnel
// at once, on lets it come up again, and a list lets others have it.
func TestWireGuard(t *testing.T) {
	needTUN(t, "wireguard-go", "wg")
	n := newNetwork(t)
	keys := map[string][2]string{}
	for _, name := range []string{"server", "pc", "nas"} {
		private, err := exec.Command("wg", "genkey").Output()
		if err != nil {
			t.Fatal(err)
		}
		public, err := n.wan.Output(string(private), "wg", "pubkey")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, private, 0o600); err != nil {
			t.Fatal(err)
		}
		keys[name] = [2]string{file, strings.TrimSpace(public)}
	}
	// The control socket is everybody's, so the name is too.
	dev := func(name string) string { return fmt.Sprintf("%s%d", name[:1], os.Getpid()) }
	up := func(ns *nettest.NS, name, addr, peers string) {
		dev := dev(name)
		program(t, ns, "wireguard-go", "-f", dev)
		until(t, "the interface of "+name, hang, func() bool {
			_, err := ns.Output("", "wg", "show", dev)
			return err == nil
		})
		ns.Run(t, "wg set "+dev+" private-key "+keys[name][0]+" "+peers+"\nip addr add "+addr+"/24 dev "+dev+"\nip link set "+dev+" up")
	}
	up(n.wan, "server", "10.9.0.1", "listen-port 40000 peer "+keys["pc"][1]+" allowed-ips 10.9.0.2/32 peer "+keys["nas"][1]+" allowed-ips 10.9.0.3/32")
	far := "peer " + keys["server"][1] + " endpoint " + server + ":40000 allowed-ips 10.9.0.0/24"
	up(n.pc, "pc", "10.9.0.2", far)
	up(n.nas, "nas", "10.9.0.3", far)
	const slow = 30 * time.Second // a handshake is tried every 5 s
	both := func() bool { return ping(n.pc, dev("pc"), "10.9.0.1") && ping(n.nas, dev("nas"), "10.9.0.1") }
	until(t, "tunnels", slow, both)
	n.set("set passthrough wireguard off")
	if ping(n.pc, dev("pc"), "10.9.0.1") || ping(n.wan, dev("server"), "10.9.0.2") {
		t.Error("a tunnel that was up goes on")
	}
	n.set("set passthrough wireguard on")
	until(t, "tunnels that may be again", slow, both)
	n.set("set passthrough wireguard devices " + nasIP)
	if ping(n.pc, dev("pc"), "10.9.0.1") {
		t.Error("the tunnel of a device that may not goes on")
	}
	if !ping(n.nas, dev("nas"), "10.9.0.1") {
		t.Error("the tunnel of a device that may has ended")
	}
}

// TestOpenVPN has OpenVPN itself with each kind of control channel, at a port
// of its own: off ends the session at once and lets no new one begin.
func TestOpenVPN(t *testing.T) {
	needTUN(t, "openvpn")
	dir := t.TempDir()
	certificates(t, dir)
	for _, kind := range []string{"secret ta.key", "tls-crypt-v2-server v2.key", "tls-crypt-v2-client v2client.key"} {
		f := strings.Fields(kind)
		args := []string{"--genkey", f[0], filepath.Join(dir, f[1])}
		if f[0] == "tls-crypt-v2-client" {
			args = append([]string{"--tls-crypt-v2", filepath.Join(dir, "v2.key")}, args...)
		}
		if out, err := exec.Command("openvpn", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	for _, c := range []struct{ name, proto, server, client string }{
		{"plain", "udp", "", ""},
		{"tls-auth", "udp", "--tls-auth ta.key 0 --auth SHA512", "--tls-auth ta.key 1 --auth SHA512"},
		{"tls-crypt", "udp", "--tls-crypt ta.key", "--tls-crypt ta.key"},
		{"tls-crypt-v2", "udp", "--tls-crypt-v2 v2.key", "--tls-crypt-v2 v2client.key"},
		{"plain over TCP", "tcp", "", ""},
		{"tls-crypt-v2 over TCP", "tcp", "--tls-crypt-v2 v2.key", "--tls-crypt-v2 v2client.key"},
	} {
		t.Run(c.name, func(t *testing.T) { openVPN(t, dir, c.proto, c.server, c.client) })
	}
}

func openVPN(t *testing.T, dir, proto, atServer, atClient string) {
	t.Parallel() // it waits most of its time
	n := newNetwork(t)
	run := func(ns *nettest.NS, name, more string) *transcript.Buffer {
		if proto == "tcp" {
			more += " --proto tcp-" + name
		}
		args := strings.Fields("--cd " + dir + " --dev tun --disable-dco --ca ca.pem --cert " + name + ".pem --key " + name + ".key --port 40000 --ping 1 --ping-restart 60 " + more)
		out, _ := program(t, ns, "openvpn", args...)
		return out
	}
	srv := run(n.wan, "server", "--local "+server+" --server 10.8.0.0 255.255.255.0 --topology subnet --dh none "+atServer)
	until(t, "the server", hang, func() bool { return strings.Contains(srv.String(), "Initialization Sequence Completed") })
	begun := func() int { return strings.Count(srv.String(), "TLS: Initial packet from") }
	connect := func() {
		run(n.pc, "client", "--nobind --client --remote "+server+" 40000 --connect-retry 1 1 --connect-timeout 5 --hand-window 5 "+atClient)
	}
	n.set("set passthrough openvpn off")
	connect()
	time.Sleep(3 * time.Second)
	if begun() > 0 {
		t.Error("a session begins though it is off")
	}
	n.set("set passthrough openvpn on")
	until(t, "a session", 30*time.Second, func() bool { return ping(n.pc, "tun0", "10.8.0.1") })
	was := begun()
	n.set("set passthrough openvpn off")
	if proto == "udp" && ping(n.pc, "tun0", "10.8.0.1") {
		t.Error("a session that was up goes on")
	}
	if begun() != was {
		t.Error("a session begins anew though it is off")
	}
}

// certificates writes those of an authority, a server and a client.
func certificates(t *testing.T, dir string) {
	t.Helper()
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), IsCA: i == 0, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
		if i == 0 {
			ca, caKey, c.KeyUsage = c, key, x509.KeyUsageCertSign
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		k, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for ext, b := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: k}} {
			if err := os.WriteFile(filepath.Join(dir, name+ext), pem.EncodeToMemory(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
