package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Causes.
const (
	Up           = "up"
	NoWAN        = "no-wan"
	Off          = "off"
	NotAllowed   = "not-allowed" // for this device or server
	AHTried      = "ah"
	NothingSent  = "nothing-sent"
	Silent       = "silent"         // the server does not answer at all
	Refused      = "refused"        // the server runs no such service
	Unreachable  = "unreachable"    // somebody on the way says no
	Undelivered  = "undelivered"    // came to the WAN and was for nobody
	OtherAddress = "other-address"  // answers come from an address that was not called
	OtherPort    = "other-port"     // and from a port
	MTU          = "mtu"            // what is large gets lost
	GRESilent    = "gre-silent"     // PPTP's control is up
	NoGRE        = "no-gre"         // the device sends none
	LoginRefused = "login-refused"  // PPP
	Negotiating  = "negotiating"    // PPP talks and does not come up
	NATTSilent   = "natt-silent"    // IKE on 500 is answered, on 4500 not
	ESPSilent    = "esp-silent"     // native ESP
	UDPESPSilent = "udp-esp-silent" // ESP in UDP
	CGNAT        = "cgnat"          // ESP or GRE is lost, and the provider's NAT is in front
	DoubleNAT    = "double-nat"     // and another router's
	NoTunnel     = "no-tunnel"      // the ends talk, and no data follows
	Clock        = "clock"          // the same with certificates, and the clock is not set
	WindowsNATT  = "windows-natt"   // Windows does not go on to a server behind NAT
	SharedL2TP   = "l2tp-shared"    // several devices in L2TP/IPsec
	AmbiguousESP = "esp-shared"     // ESP comes, for one of several devices
	Idle         = "idle"           // it was up, nothing is sent
	NotTold      = "unknown"        // too little was seen
)

const (
	enoughTries    = 3                // packets without an answer, and
	enoughWaiting  = 6 * time.Second  // for how long, until nothing is expected any more
	negotiatedLong = 60 * time.Second // PPP that could not agree has given up by then, RFC 1661 4.6
	upWatched      = 3 * time.Second  // for large packets that get lost
	losingLong     = 4 * time.Second  // of large packets
	enoughStray    = 2                // answers from elsewhere
)

// Causes are all of them.
var Causes = []string{Up, NoWAN, Off, NotAllowed, AHTried, NothingSent, Silent, Refused, Unreachable, Undelivered, OtherAddress, OtherPort, MTU,
	GRESilent, NoGRE, LoginRefused, Negotiating, NATTSilent, ESPSilent, UDPESPSilent, CGNAT, DoubleNAT, NoTunnel, Clock, WindowsNATT, SharedL2TP,
	AmbiguousESP, Idle, NotTold}

type judge struct {
	Seen
	protocol string
}

func (c *judge) device() string {
	if c.Name != "" {
		return c.Name
	}
	return c.Device.String()
}

func (c *judge) server() string {
	if c.ServerName != "" {
		return c.ServerName + " (" + c.Server.String() + ")"
	}
	return c.Server.String()
}

// flow is what was seen of a part; nothing when it was not.
func (c *judge) flow(p Part) Flow {
	for _, f := range c.Flows {
		if f.Part == p {
			return f
		}
	}
	return Flow{Part: p}
}

// unanswered tells whether the device asked often and long enough in vain.
func (f *Flow) unanswered() bool {
	return f.In.Packets == 0 && f.Out.Packets >= enoughTries && f.Age >= enoughWaiting
}

// tries is e.g. "laptop sent TCP 1723 (SYN) 4 times, first 12s ago".
func (c *judge) tries(f Flow) string {
	what := f.Part.text()
	if f.Sent != "" {
		what += " (" + f.Sent + ")"
	}
	if _, port, ok := strings.Cut(f.Ports, ">"); ok && (f.Part == OpenVPN || f.Part == WireGuard) {
		what += " to port " + port
	}
	if f.Out.Packets == 1 {
		return fmt.Sprintf("%s sent %s once, %s ago", c.device(), what, f.Age.Truncate(time.Second))
	}
	return fmt.Sprintf("%s sent %s %d times, first %s ago", c.device(), what, f.Out.Packets, f.Age.Truncate(time.Second))
}

func (c *judge) verdict() verdict {
	switch {
	case !c.WAN.IsValid():
		why := c.WANProblem
		if why == "" {
			why = "The WAN has no address yet."
		}
		return verdict{NoWAN, "The router has no Internet connection, so no VPN can leave. " + why, "", true}
	case c.Protocol != "" && c.Protocol != "l2tp":
		if v, ok := c.refused(c.Protocol); ok {
			return v
		}
	}
	if ah := c.flow(AH); ah.Out.Packets > 0 && c.wanted("ipsec") && c.flow(ESP).Out.Packets == 0 && c.flow(NATT).In.Packets == 0 {
		return verdict{AHTried, fmt.Sprintf("%s tries IPsec with AH (%d packets), which signs the addresses that NAT rewrites and so cannot cross any NAT, by design (RFC 3715, 2.1).", c.device(), ah.Out.Packets),
			"Configure ESP instead of AH in the VPN of the device and of the server.", true}
	}
	if c.protocol == "" {
		if v, ok := c.refused("l2tp"); ok && c.Protocol == "l2tp" && c.Watched > 0 {
			return v
		}
		return c.nothing()
	}
	if v, ok := c.refused(c.protocol); ok {
		return v
	}
	switch c.protocol {
	case "pptp":
		return c.pptp()
	case "l2tp":
		return c.l2tp()
	case "sstp":
		return c.sstp()
	case "openvpn":
		return c.single(c.flow(OpenVPN), "OpenVPN server", "With tls-auth or tls-crypt a server is silent, too, when the key file of the device is not its own.")
	case "wireguard":
		return c.single(c.flow(WireGuard), "WireGuard", "WireGuard is silent, too, when it does not know the device's public key, or the device has a wrong one of it.")
	}
	return c.ipsec()
}

// refused is what this router refuses itself.
func (c *judge) refused(protocol string) (verdict, bool) {
	name := protocolNames[protocol]
	tried := ""
	for _, f := range c.Flows {
		if f.Part.Protocol() == protocol && f.Out.Packets > 0 {
			tried = "; " + c.tries(f) + " and was refused"
			break
		}
	}
	if slices.Contains(c.Off, protocol) {
		return verdict{Off, name + " is switched off on this router" + tried + ".", "set passthrough " + protocol + " on; commit", true}, true
	}
	for _, d := range c.Denied {
		if d.Protocol != protocol {
			continue
		}
		who, setting := c.device(), "passthrough "+protocol+" "+d.List
		if d.List == "servers" {
			who = c.server()
		}
		if d.Why != "" {
			tried += "; " + d.Why
		}
		return verdict{NotAllowed, fmt.Sprintf("%s is on, but %s is not among its %s (%s)%s.", name, who, d.List, setting, tried),
			fmt.Sprintf("Add it to %s, or allow any: set %s any; commit", setting, setting), true}, true
	}
	return verdict{}, false
}

func (c *judge) nothing() verdict {
	if c.Watched == 0 {
		return verdict{NotTold, fmt.Sprintf("The router remembers no attempt of %s to reach %s.", c.device(), c.server()), "", false}
	}
	what := "no packet of a VPN"
	if c.Protocol != "" {
		what = "no packet of " + protocolNames[c.Protocol]
	}
	return verdict{NothingSent, fmt.Sprintf("%s sent %s to %s in %s.", c.device(), what, c.server(), c.Watched.Truncate(time.Second)),
		"Start the VPN on it while this watches; then check that it uses this router as its gateway and the same address of the server: show connections " + c.Device.String(), false}
}

// common are the rules of every first packet: who has an answer goes on.
func (c *judge) common(f Flow, service string) (verdict, bool) {
	switch {
	case f.Reset:
		return verdict{Refused, fmt.Sprintf("%s answers that it has no service on %s: no %s runs there, or its firewall refuses.", c.server(), f.Part.text(), service),
			"Check the server's address, and that the " + service + " runs.", true}, true
	case f.Unreachable != "" && f.In.Packets == 0:
		return verdict{Unreachable, fmt.Sprintf("%s about %s to %s.", f.Unreachable, f.Part.text(), c.server()),
			"Check the server's address and its firewall; the answer did not come from this router.", true}, true
	case f.Stray >= enoughStray && f.In.Packets == 0:
		return c.stray(f), true
	case f.Arrived > 0 && f.In.Packets == 0 && len(c.Others) == 0 && f.Out.Packets >= enoughTries:
		return verdict{Undelivered, fmt.Sprintf("%s answers %s (%d packets came to the WAN), but they match no connection of %s.", c.server(), f.Part.text(), f.Arrived, c.device()),
			"Disconnect the VPN, wait a minute and start it again, so that the router sees it from its first packet.", f.unanswered()}, true
	}
	return verdict{}, false
}

// stray is an answer from where nobody called.
func (c *judge) stray(f Flow) verdict {
	from := f.StrayFrom.Addr()
	if from == c.Server {
		return verdict{OtherPort, fmt.Sprintf("%s answers %s from another port, %d, than the one that %s called (%d packets): NAT passes only answers that come from where it sent to.", c.server(), f.Part.text(), f.StrayFrom.Port(), c.device(), f.Stray),
			"Have the server answer from the port it was called at; a NAT or load balancer in front of it has to keep its port.", true}
	}
	return verdict{OtherAddress, fmt.Sprintf("%s calls %s, but %s answers (%s, %d packets): NAT passes only answers that come from where it sent to.", c.device(), c.server(), from, f.Part.text(), f.Stray),
		fmt.Sprintf("Have the server answer from the address it was called at, or let the device call %s.", from), true}
}

// silent is that of a flow that the server never answered; it settles when the
// device has tried often enough.
func (c *judge) silent(f Flow, service string) verdict {
	if f.Called && f.Out.Packets == 0 {
		return verdict{Silent, fmt.Sprintf("%s calls the %s on %s (%s %d times), which does not answer.", c.server(), service, c.device(), f.Part.text(), f.In.Packets),
			fmt.Sprintf("Check that the %s runs on %s and that its firewall passes %s.", service, c.device(), f.Part.text()), f.In.Packets >= enoughTries && f.Age >= enoughWaiting}
	}
	if f.Held && f.Part == IKE && c.CopyOff && len(c.Others) > 0 {
		return verdict{NotAllowed, fmt.Sprintf("passthrough ipsec copy is off, so that native IPsec with %s is for one device at a time, and it is with %s; %s and was refused.", c.server(), strings.Join(c.Others, ", "), c.tries(f)),
			"set passthrough ipsec copy on; commit, or disconnect the other device and wait until the router has forgotten it", f.unanswered()}
	}
	if f.Held {
		fix := "See what holds it back: show firewall, show log"
		if len(c.Others) > 0 {
			fix = "A further device of an IPsec server waits until the router has made room for it: try once more. If that stays so: show log"
		}
		return verdict{NotTold, fmt.Sprintf("%s, and none of it has left this router.", c.tries(f)), fix, false}
	}
	return verdict{Silent, fmt.Sprintf("%s does not answer: %s, and nothing came back.", c.server(), c.tries(f)),
		fmt.Sprintf("Check the server's address, that its %s runs and that nothing on the way to it filters %s.", service, f.Part.text()), f.unanswered()}
}

func (c *judge) idle(f Flow) verdict {
	return verdict{Idle, fmt.Sprintf("%s was answered (packets: %d out, %d in) and nothing more came: the tunnel is idle or has ended.", f.Part.text(), f.Out.Packets, f.In.Packets),
		"Send something through the tunnel, e.g. a ping to a host behind it, and ask again.", false}
}

// up is a tunnel that carries data. Whether it carries large packets takes some
// to be sent, which are waited for, for a moment.
func (c *judge) up(f Flow) verdict {
	if v, ok := c.mtu(f); ok {
		return v
	}
	sure := !f.Watched || f.Sizes.BigAnswered > 0 || f.Sizes.Big == 0 && f.Sizes.Since >= upWatched
	return verdict{Up, fmt.Sprintf("All is well: the tunnel of %s to %s is up, %s carries data both ways (packets: %d out, %d in).", c.device(), c.server(), f.Part.text(), f.Out.Packets, f.In.Packets), "", sure}
}

// mtu is a path that does not pass packets as large as the device sends them.
func (c *judge) mtu(f Flow) (verdict, bool) {
	z := f.Sizes
	switch {
	case z.MTU > 0 && z.Oversize >= enoughTries:
		return verdict{MTU, fmt.Sprintf("%s says by ICMP that packets to %s must not be larger than %d bytes, but %s goes on sending larger ones (%d since): it does not get or not heed what path MTU discovery needs (RFC 1191).", z.MTUFrom, c.server(), z.MTU, c.device(), z.Oversize),
			fmt.Sprintf("Let the firewall on the device pass ICMP type 3 code 4, or lower the MTU of its tunnel to %d.", z.MTU-tunnelOverhead), true}, true
	case z.MTU == 0 && z.BigLost >= enoughTries && z.BigAnswered == 0 && z.SmallAnswered > 0 && z.Passed < z.Lost && z.Losing >= losingLong:
		narrower := 1400
		for _, n := range []int{1280, 1100} {
			if z.Lost <= uint64(narrower) {
				narrower = n
			}
		}
		return verdict{MTU, fmt.Sprintf("The tunnel of %s to %s is up, but large packets get lost in it: those of up to %d bytes are answered, those of %d bytes and more are not (%d of them), and no router on the way says why: a path MTU black hole (RFC 2923).", c.device(), c.server(), z.Passed, z.Lost, z.BigLost),
			fmt.Sprintf("set wan mtu %d; commit: then this router tells its devices what fits. Or lower the MTU of the tunnel on the device or the server, to %d.", narrower, narrower-tunnelOverhead), true}, true
	}
	return verdict{}, false
}

// tunnelOverhead is what the headers of any of the protocols take at most, in
// bytes: ESP in UDP with an outer IP header, padding and a long ICV.
const tunnelOverhead = 100
