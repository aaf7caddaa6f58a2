package shell

import (
	"context"
	"fmt"
	"strings"

	"github.com/culvert-fw/culvert/firmware/settings"
)

// Root is the command tree.
func Root() *Command {
	return &Command{Sub: []*Command{
		showCommand(),
		{Name: "set", Args: "PATH... VALUE", Help: "change a setting in the candidate", run: runSet, complete: completeSet,
			Doc: "Nothing happens before `commit`. Tab and `?` show what may follow."},
		setupCommand(),
		{Name: "delete", Args: "PATH...", Help: "remove a setting or put it back to its default", run: runDelete, complete: completePath},
		{Name: "compare", Args: "[REVISION [REVISION]]", Help: "what the candidate changes", run: runCompare,
			Doc: "With one number: what changed between that revision and the running settings; with two: between them."},
		{Name: "commit", Args: "[message TEXT] [confirm [TIME]]", Help: "make the candidate the running settings", run: runCommit, complete: completeCommit,
			Doc: "Every commit is a revision. With `confirm 2m` the router goes back to its last confirmed settings unless you type `confirm` within that time; so it does on a crash or a reboot. A commit over SSH that may cut your own session becomes `confirm 2m` by itself."},
		{Name: "confirm", Help: "keep what `commit confirm` changed", run: runConfirm},
		{Name: "refresh", Help: "move your changes onto what another admin committed", run: runRefresh},
		{Name: "discard", Help: "drop the changes that are not committed", run: runDiscard},
		{Name: "rollback", Args: "REVISION", Help: "go back to the settings of a revision", run: runRollback,
			Doc: "The settings of that revision become a new revision."},
		{Name: "history", Args: "[REVISION]", Help: "list the revisions, or show what one changed", JSON: true, run: runHistory},
		{Name: "export", Help: "print the running settings as JSON", run: runExport,
			Doc: "Secrets are exported as `(set)`; an import keeps the secret in that place."},
		{Name: "import", Help: "read settings as JSON into the candidate", run: runImport,
			Doc: "Paste them and end with Ctrl-D or a line with a single dot; in a script: `ssh admin@192.168.1.1 'import; commit' <FILE`."},
		{Name: "ping", Args: "HOST [COUNT]", Help: "see whether a host answers", run: runPing},
		diagnoseCommand(),
		{Name: "traceroute", Args: "HOST", Help: "see the way to a host", run: runTraceroute},
		{Name: "password", Help: "change the admin's password", run: runPassword},
		{Name: "key", Help: "SSH keys that may log in", Sub: []*Command{
			{Name: "list", Help: "list the keys", JSON: true, run: runKeyList},
			{Name: "add", Args: "[KEY]", Help: "add a public key (a line of id_ed25519.pub)", run: runKeyAdd},
			{Name: "remove", Args: "NUMBER|FINGERPRINT", Help: "remove a key", run: runKeyRemove},
		}},
		{Name: "reboot", Args: "[now]", Help: "restart the router", run: runReboot, complete: completeNow},
		{Name: "poweroff", Args: "[now]", Help: "turn the router off", run: runPoweroff, complete: completeNow},
		{Name: "factory-reset", Args: "[now]", Help: "forget all settings, keys and the password, and restart", run: runReset, complete: completeNow},
		{Name: "restart", Args: "SERVICE", Help: "end a service at once and start it again", run: runRestart,
			Doc:      "Established connections go on while netd restarts; a restart of edge ends this session.",
			complete: fixed(settings.Candidate{Word: "netd", Help: "the network manager"}, settings.Candidate{Word: "edge", Help: "DNS, SSH and this shell"})},
		{Name: "toolbox", Args: "[COMMAND]", Help: "a system shell without any rights, to look around", run: runToolbox},
		{Name: "help", Args: "[COMMAND]", Help: "list the commands, or explain one", run: runHelp, complete: completeHelp},
		{Name: "exit", Help: "leave", run: runExit},
		{Name: "quit", Help: "leave", run: runExit},
	}}
}

func showCommand() *Command {
	return &Command{Name: "show", Help: "show the router's state", Sub: []*Command{
		{Name: "status", Help: "the router at a glance", JSON: true, run: runShowStatus},
		{Name: "interfaces", Help: "network interfaces and their counters", JSON: true, run: runShowInterfaces},
		{Name: "leases", Help: "LAN devices and their addresses", JSON: true, run: runShowLeases},
		{Name: "passthrough", Help: "VPN tunnels that cross the router", JSON: true, Live: true, run: runShowPassthrough, Sub: []*Command{
			{Name: "counters", Help: "what the kernel counts of native IPsec, how full its tables are, and where names of servers lead", JSON: true, Live: true, run: runShowCounters,
				Doc: "ESP by server, of the SPIs that the kernel holds now: OUT from the devices, IN from the server. OWNER: the only device of the server, or of how many of its SPIs the device is known; COPIED is how many packets of the others went to every device. Then the sets of table ip, which are full at LIMIT, and the further devices that asked for a server that has one. NAME is a DNS name in a list of servers, with the addresses of the last answer and, in brackets, those of earlier ones that count all the same. IKE is not counted, nor what strangers send: it never gets so far."},
		},
			Doc: "OUT and IN are packets and bytes from and to the device on the LAN; `<` before a server: it called the device. STATE: `negotiating` until something comes back, `learning` while nobody knows which of the server's packets are this device's, `up`, `idle` after two minutes without a packet. OWNER is how the device is known that the server's packets go to: `exact` by ports, call IDs or IKE's SPI; `only device` of this server; `copied` to every device of this server, so nobody's and not counted; `evidence`: of several devices this one talks when the server does, again and again. LAST is how long ago the last packet was, told by what is missing from the kernel's time-out of the connection; for native IPsec that of the device's SPI, so its own packets only; `-` where the time-out does not tell, as of connections on the fast path. A narrow terminal gets two lines a tunnel. `--watch` shows it again every second until a key is pressed; over SSH use `ssh -t`, without a terminal one list follows the other."},
		{Name: "protection", Help: "which devices send outside of encrypted tunnels", JSON: true, Live: true, run: runShowProtection,
			Doc: "Each LAN device that has connections now: `protected` when all that the router sees of it leaves in encrypted tunnels, `unprotected` with what does not, `unknown` where that can't be seen. First the Internet address, and whether another NAT is before the router. Tunnels are told by protocol and port: ESP, UDP 4500, 51820 (WireGuard), 1194 (OpenVPN); on another port a tunnel counts as an ordinary connection, and TCP 443 may be HTTPS or SSTP. A connection that is only remembered says for how long it has been quiet. Connections that stay on the LAN do not count, nor those to the router, except DNS: the router asks outside of the device's tunnel."},
		{Name: "connections", Args: "[DEVICE]", Help: "tracked connections, of one LAN address or all", JSON: true, run: runShowConnections},
		{Name: "firewall", Args: "[rules]", Help: "switches, port forwards and VPN servers, or the kernel's rules", JSON: true, run: runShowFirewall,
			complete: fixed(settings.Candidate{Word: "rules", Help: "the ruleset in nft's syntax"})},
		{Name: "log", Args: "[SERVICE] [LINES]", Help: "the latest log lines, of one service or all", JSON: true, run: runShowLog,
			complete: fixed(settings.Candidate{Word: "init", Help: "process 1"}, settings.Candidate{Word: "netd", Help: "the network manager"},
				settings.Candidate{Word: "edge", Help: "DNS, SSH and this shell"})},
		{Name: "version", Help: "what this router runs", JSON: true, run: runShowVersion},
		{Name: "settings", Args: "[PATH...]", Help: "the running settings as set commands", JSON: true, run: runShowSettings, complete: completePath},
	}}
}

func fixed(cs ...settings.Candidate) func(context.Context, *Shell, []string) []settings.Candidate {
	return func(_ context.Context, _ *Shell, words []string) []settings.Candidate {
		if len(words) > 1 {
			return nil
		}
		return cs
	}
}

func completeNow(ctx context.Context, s *Shell, words []string) []settings.Candidate {
	return fixed(settings.Candidate{Word: "now", Help: "without asking"})(ctx, s, words)
}

func runExit(_ context.Context, s *Shell, _ args) error {
	s.leave()
	return nil
}

func runHelp(_ context.Context, s *Shell, a args) error {
	at, path := s.root, []string{}
	for _, w := range a.words {
		if len(at.Sub) == 0 {
			break
		}
		next, err := match(at, path, w)
		if err != nil {
			return err
		}
		at, path = next, append(path, next.Name)
	}
	if len(path) > 0 {
		fmt.Fprintf(s.c, "%s\n    %s\n", usage(strings.Join(path, " "), at), at.Help)
		if at.Doc != "" {
			fmt.Fprint(s.c, wrap(strings.ReplaceAll(at.Doc, "`", ""), "    ", s.width()))
		}
	}
	t := newTable("COMMAND", "WHAT IT DOES")
	for _, c := range at.Sub {
		t.add(usage(c.Name, c), c.Help)
	}
	if len(t.rows) > 0 {
		t.write(s.c, s.width())
	}
	if len(path) == 0 {
		fmt.Fprintln(s.c, "\nTab completes, ? shows what may come next, ; separates commands, names may be shortened.")
	}
	return nil
}

func (s *Shell) width() int {
	if t := s.o.Terminal; t != nil {
		w, _ := t.size()
		return w
	}
	return 80
}
