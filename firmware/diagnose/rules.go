package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Causes.
const (
	Up             = "up"
	NoWAN          = "no-wan"
	Off            = "off"
	NotAllowed     = "not-allowed" // for this device or server
	AHTried        = "ah"
	NothingSent    = "nothing-sent"
	Silent         = "silent"         // the server does not answer at all
	Refused        = "refused"        // the server runs no such service
	Unreachable    = "unreachable"    // somebody on the way says no
	Undelivered    = "undelivered"    // came to the WAN and was for nobody
	GRESilent      = "gre-silent"     // PPTP's control is up
	NoGRE          = "no-gre"         // the device sends none
	LoginRefused   = "login-refused"  // PPP
	Negotiating    = "negotiating"    // PPP talks and does not come up
	NATTSilent     = "natt-silent"    // IKE on 500 is answered, on 4500 not
	ESPSilent      = "esp-silent"     // native ESP
	UDPESPSilent   = "udp-esp-silent" // ESP in UDP
	NoTunnel       = "no-tunnel"      // IKE is answered, no ESP follows
	Clock          = "clock"          // the same, and the clock is not set
	SharedL2TP     = "l2tp-shared"    // several devices in L2TP/IPsec
	AmbiguousESP   = "esp-shared"     // ESP comes, for one of several devices
	Idle           = "idle"           // it was up, nothing is sent
	NotTold        = "unknown"        // too little was seen
	enoughTries    = 3                // packets without an answer, and
	enoughWaiting  = 6 * time.Second  // for how long, until nothing is expected any more
	negotiatedLong = 60 * time.Second // PPP that could not agree has given up by then, RFC 1661 4.6
)

// Causes are all of them.
var Causes = []string{Up, NoWAN, Off, NotAllowed, AHTried, NothingSent, Silent, Refused, Unreachable, Undelivered, GRESilent, NoGRE, LoginRefused,
	Negotiating, NATTSilent, ESPSilent, UDPESPSilent, NoTunnel, Clock, SharedL2TP, AmbiguousESP, Idle, NotTold}

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

// tries is e.g. "laptop sent TCP 1723 4 times, first 12s ago".
func (c *judge) tries(f Flow) string {
	if f.Out.Packets == 1 {
		return fmt.Sprintf("%s sent %s once, %s ago", c.device(), f.Part.text(), f.Age.Truncate(time.Second))
	}
	return fmt.Sprintf("%s sent %s %d times, first %s ago", c.device(), f.Part.text(), f.Out.Packets, f.Age.Truncate(time.Second))
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
	}
	return c.ipsec()
}

// refused is what this router refuses itself.
func (c *judge) refused(protocol string) (verdict, bool) {
	name := map[string]string{"pptp": "PPTP", "l2tp": "L2TP", "ipsec": "IPsec"}[protocol]
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
		what = "no packet of " + c.Protocol
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
	case f.Arrived > 0 && f.In.Packets == 0 && len(c.Others) == 0 && f.Out.Packets >= enoughTries:
		return verdict{Undelivered, fmt.Sprintf("%s answers %s (%d packets came to the WAN), but they match no connection of %s.", c.server(), f.Part.text(), f.Arrived, c.device()),
			"Disconnect the VPN, wait a minute and start it again, so that the router sees it from its first packet.", true}, true
	}
	return verdict{}, false
}

// silent is that of a flow that the server never answered; it settles when the
// device has tried often enough.
func (c *judge) silent(f Flow, service string) verdict {
	return verdict{Silent, fmt.Sprintf("%s does not answer: %s, and nothing came back.", c.server(), c.tries(f)),
		fmt.Sprintf("Check the server's address, that its %s runs and that nothing on the way to it filters %s.", service, f.Part.text()), f.unanswered()}
}

func (c *judge) pptp() verdict {
	control, gre := c.flow(Control), c.flow(GRE)
	const service = "PPTP server"
	if gre.In.Packets == 0 {
		if v, ok := c.common(control, service); ok {
			return v
		}
		if control.In.Packets == 0 && gre.Out.Packets == 0 {
			return c.silent(control, service)
		}
		if v, ok := c.common(gre, service); ok {
			return v
		}
	}
	both := gre.In.Packets > 0 && gre.Out.Packets > 0
	switch {
	case gre.LoginRefused:
		return c.login()
	case gre.DataIn > 0 && gre.DataOut > 0 || both && gre.Age >= negotiatedLong:
		return c.up(gre)
	case control.In.Packets == 0:
		return verdict{NotTold, fmt.Sprintf("GRE of %s is left from a call to %s that is over.", c.device(), c.server()), "", false}
	case gre.Out.Packets > 0 && gre.In.Packets == 0:
		return verdict{GRESilent, fmt.Sprintf("The control connection to %s is up, but GRE never came back: %s. GRE (IP protocol 47) is filtered by the provider, or by the server's firewall.", c.server(), c.tries(gre)),
			"Let the server's firewall pass IP protocol 47; if it does, the provider filters it: use a VPN with UDP, as IKEv2 or WireGuard.", gre.unanswered()}
	case gre.In.Packets > 0 && gre.Out.Packets == 0:
		return verdict{NoGRE, fmt.Sprintf("%s sends GRE and %s sends none: a firewall on the device holds it back.", c.server(), c.device()),
			"Let the firewall on the device pass GRE (IP protocol 47).", false}
	case both:
		return c.negotiating(gre)
	}
	return verdict{NoGRE, fmt.Sprintf("The control connection to %s is up, but no GRE followed from either side: the server refused the call, or it just begins.", c.server()),
		"Look in the server's log; it may be full, or not set up for this client.", false}
}

func (c *judge) l2tp() verdict {
	f := c.flow(L2TP)
	const service = "L2TP server"
	if v, ok := c.common(f, service); ok {
		return v
	}
	switch {
	case f.In.Packets == 0:
		return c.silent(f, service)
	case f.LoginRefused:
		return c.login()
	case f.DataIn > 0 && f.DataOut > 0:
		return c.up(f)
	case !f.Watched:
		return c.idle(f)
	}
	return c.negotiating(f)
}

func (c *judge) login() verdict {
	return verdict{LoginRefused, fmt.Sprintf("%s refuses the user name or the password of %s.", c.server(), c.device()), "Correct them on the device, or on the server.", true}
}

func (c *judge) negotiating(f Flow) verdict {
	return verdict{Negotiating, fmt.Sprintf("%s goes both ways (packets: %d out, %d in), but PPP inside has not come up: the ends do not agree on login or encryption, or the server does not get what %s sends.", f.Part.text(), f.Out.Packets, f.In.Packets, c.device()),
		"Compare the authentication (MS-CHAPv2) and encryption settings of both ends, and look in the server's log.", false}
}

func (c *judge) idle(f Flow) verdict {
	return verdict{Idle, fmt.Sprintf("%s was answered (packets: %d out, %d in) and nothing more came: the tunnel is idle or has ended.", f.Part.text(), f.Out.Packets, f.In.Packets),
		"Send something through the tunnel, e.g. a ping to a host behind it, and ask again.", false}
}

func (c *judge) up(f Flow) verdict {
	return verdict{Up, fmt.Sprintf("All is well: the tunnel of %s to %s is up, %s carries data both ways (packets: %d out, %d in).", c.device(), c.server(), f.Part.text(), f.Out.Packets, f.In.Packets), "", true}
}

func (c *judge) ipsec() verdict {
	ike, natt, esp := c.flow(IKE), c.flow(NATT), c.flow(ESP)
	shared := len(c.Others) > 0
	switch {
	case natt.DataIn > 0 && natt.DataOut > 0:
		return c.up(natt)
	case esp.Watched && esp.Out.Packets > 0 && esp.In.Packets > 0 && !shared:
		return c.up(esp)
	}
	esps := esp.Out.Packets + natt.DataOut
	if shared && (c.Protocol == "l2tp" || ike.IKEv1 || natt.IKEv1) && esps >= enoughTries {
		return verdict{SharedL2TP, fmt.Sprintf("Several devices talk to %s (%s beside %s): with L2TP in IPsec (transport mode) most servers can tell only one device behind an address, and send the data of all to the last one (RFC 3948, 5.2).", c.server(), strings.Join(c.Others, ", "), c.device()),
			"Disconnect the other devices, or use IKEv2 or an IPsec tunnel mode VPN, which has no such limit.", max(esp.Age, natt.Age) >= enoughWaiting}
	}
	if esp.Out.Packets > 0 {
		return c.native(esp)
	}
	if natt.Out.Packets > 0 {
		return c.natTraversal(ike, natt)
	}
	if v, ok := c.common(ike, "IPsec server"); ok {
		return v
	}
	if ike.In.Packets == 0 && !ike.Uncounted {
		return c.silent(ike, "IPsec server")
	}
	return c.noTunnel(ike)
}

// native is ESP outside UDP, not both ways to this device alone.
func (c *judge) native(esp Flow) verdict {
	if v, ok := c.common(esp, "IPsec server"); ok {
		return v
	}
	switch {
	case esp.In.Packets == 0:
		return verdict{ESPSilent, fmt.Sprintf("IKE is done, %s and no ESP came back: ESP (IP protocol 50) is filtered by the provider, or by the server's firewall.", c.tries(esp)),
			"Turn on NAT traversal (ESP in UDP 4500) on the device and the server, or let the server's firewall pass IP protocol 50.", esp.unanswered()}
	case len(c.Others) > 0:
		return verdict{AmbiguousESP, fmt.Sprintf("ESP goes both ways, but %s serves other devices here as well (%s): each gets a copy of what it sends, and only the devices can tell whose it is.", c.server(), strings.Join(c.Others, ", ")),
			"See on the device whether its tunnel counts packets in; if not, disconnect the others and ask again.", esp.Watched}
	}
	return c.idle(esp)
}

func (c *judge) natTraversal(ike, natt Flow) verdict {
	if v, ok := c.common(natt, "IPsec server"); ok {
		return v
	}
	switch {
	case natt.In.Packets > 0 && natt.DataOut > 0 && natt.DataIn == 0:
		return verdict{UDPESPSilent, fmt.Sprintf("IKE on UDP 4500 is answered, %d packets of ESP in UDP went out and none came back: the server drops them or has no way back for them.", natt.DataOut),
			"Check the server's firewall and its policy for this client; a server behind NAT needs UDP 4500 forwarded, and a Windows client AssumeUDPEncapsulationContextOnSendRule=2.", natt.DataOut >= enoughTries && natt.Age >= enoughWaiting}
	case natt.In.Packets > 0 && !natt.Watched:
		return c.idle(natt)
	case natt.In.Packets > 0:
		return c.noTunnel(natt)
	case ike.In.Packets > 0 || ike.Uncounted: // a device goes on to 4500 when it was answered on 500, RFC 7296 2.23
		return verdict{NATTSilent, fmt.Sprintf("%s answers IKE on UDP 500, but not on UDP 4500: %s. UDP 4500 is filtered by the provider, or by the server's firewall.", c.server(), c.tries(natt)),
			"Let the server's firewall pass UDP 4500, and forward it where the server is behind NAT.", natt.unanswered() && !ike.Uncounted}
	}
	return c.silent(natt, "IPsec server")
}

// noTunnel is IKE that was answered and no ESP after it.
func (c *judge) noTunnel(f Flow) verdict {
	switch {
	case !f.Watched:
		return verdict{NotTold, fmt.Sprintf("%s talked IKE to %s; more has to be seen to tell.", c.device(), c.server()), "Start the VPN again and ask again.", false}
	case !c.ClockSet:
		return verdict{Clock, fmt.Sprintf("%s answers IKE, but no tunnel comes of it, and the router could not set its clock by NTP: if the device's clock is wrong too, certificates fail.", c.server()),
			"Check the date on the device and on the router: show status", false}
	case f.Authenticated:
		return verdict{NoTunnel, fmt.Sprintf("IKE with %s went through to its last exchange on %s, and no ESP followed: one end refuses the other's identity, key or certificate, or nothing was sent through the tunnel.", c.server(), f.Part.text()),
			"Look in the log of the client; if it says connected, send something through the tunnel and ask again.", false}
	}
	return verdict{NoTunnel, fmt.Sprintf("%s answers IKE on %s (packets: %d out, %d in), but the ends do not agree: proposals, identity, key or certificate differ.", c.server(), f.Part.text(), f.Out.Packets, f.In.Packets),
		"Look in the log of the client or of the server, and compare their settings.", false}
}
