package diagnose

import (
	"fmt"
	"strings"
)

func (c *judge) ipsec() verdict {
	ike, natt, esp := c.flow(IKE), c.flow(NATT), c.flow(ESP)
	shared := len(c.Others) > 0
	switch {
	case natt.DataIn > 0 && natt.DataOut > 0:
		return c.up(natt)
	case esp.Watched && esp.Out.Packets > 0 && esp.In.Packets > 0 && (!shared || c.Bound):
		return c.up(esp)
	}
	if v, ok := c.windows(ike, natt, esp); ok {
		return v
	}
	if v, ok := c.sharedL2TP(ike, natt, esp); ok {
		return v
	}
	if esp.Out.Packets > 0 {
		return c.native(esp)
	}
	if natt.Out.Packets > 0 || natt.Called {
		return c.natTraversal(ike, natt)
	}
	if v, ok := c.common(ike, "IPsec server"); ok {
		return v
	}
	if (ike.In.Packets == 0 || ike.Out.Packets == 0) && !ike.Uncounted {
		return c.silent(ike, "IPsec server")
	}
	return c.noTunnel(ike)
}

// windows is IKEv1 of Windows with a server behind NAT, which it does not carry
// to ESP unless the registry says so (KB 926179).
func (c *judge) windows(ike, natt, esp Flow) (verdict, bool) {
	f := ike
	if natt.Windows {
		f = natt
	}
	if !f.Windows || !f.IKEv1 || f.Out.Packets == 0 || f.In.Packets == 0 || !f.Called && !ike.ServerNAT && !natt.ServerNAT {
		return verdict{}, false
	}
	const registry = `HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\PolicyAgent, DWORD AssumeUDPEncapsulationContextOnSendRule = 2`
	who, server, theirs := c.device(), c.server(), natt.DataOut+esp.Out.Packets
	if f.Called {
		who, server, theirs = c.server(), c.device(), natt.DataIn+esp.In.Packets
	}
	if theirs > 0 {
		return verdict{}, false
	}
	fix := "Set on that Windows, and restart it: " + registry
	if !f.Called {
		fix += ". The router in front of the server has to forward UDP 500 and 4500 to it."
	}
	return verdict{WindowsNATT, fmt.Sprintf("%s runs Windows and %s is behind NAT: IKE is answered (packets: %d out, %d in), but Windows sends no ESP to an IPsec server behind NAT until its registry allows that.", who, server, f.Out.Packets, f.In.Packets),
		fix, f.Age >= enoughWaiting}, true
}

// sharedL2TP is IPsec in transport mode of several devices, of which the server
// can tell one. Each gets a copy of what comes outside UDP, so that only who
// asks for L2TP is told so of native ESP that goes both ways.
func (c *judge) sharedL2TP(ike, natt, esp Flow) (verdict, bool) {
	if len(c.Others) == 0 || c.Protocol != "l2tp" && (!ike.IKEv1 && !natt.IKEv1 || esp.In.Packets > 0) || esp.Out.Packets+natt.DataOut < enoughTries {
		return verdict{}, false
	}
	return verdict{SharedL2TP, fmt.Sprintf("Several devices talk to %s (%s beside %s): with L2TP in IPsec (transport mode) most servers can tell only one device behind an address, and send the data of all to the last one (RFC 3948, 5.2).", c.server(), strings.Join(c.Others, ", "), c.device()),
		"Disconnect the other devices, or use IKEv2 or an IPsec tunnel mode VPN, which has no such limit.", max(esp.Age, natt.Age) >= enoughWaiting}, true
}

// natInFront tells whether another NAT between this router and the Internet is
// what loses a protocol without ports, and what to do.
func (c *judge) natInFront(what, instead string) (cause, text, fix string) {
	passes := fmt.Sprintf("Turn on VPN passthrough on that router or make it a bridge, or %s.", instead)
	switch {
	case cgnat.Contains(c.WAN):
		return CGNAT, fmt.Sprintf("the WAN address %s is shared by the provider's customers: its carrier-grade NAT (RFC 6598) passes no %s.", c.WAN, what),
			fmt.Sprintf("Ask the provider for a public address, or %s.", instead)
	case c.WAN.IsPrivate():
		return DoubleNAT, fmt.Sprintf("the WAN address %s is a private one: another router with NAT is in front of this one, and passes no %s.", c.WAN, what), passes
	case c.flow(IKE).ClientNAT || c.flow(NATT).ClientNAT:
		return DoubleNAT, fmt.Sprintf("the server sees another address than this router's %s: another router with NAT is in front of this one, and passes no %s.", c.WAN, what), passes
	}
	return "", "", ""
}

// native is ESP outside UDP, not both ways to this device alone.
func (c *judge) native(esp Flow) verdict {
	if v, ok := c.common(esp, "IPsec server"); ok {
		return v
	}
	switch {
	case esp.In.Packets == 0:
		if cause, text, fix := c.natInFront("ESP", "turn on NAT traversal (ESP in UDP 4500) on the device and the server"); cause != "" {
			return verdict{cause, fmt.Sprintf("IKE is done, %s and no ESP came back, and %s", c.tries(esp), text), fix, esp.unanswered()}
		}
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
			"Check the server's firewall and its policy for this client; a server behind NAT needs UDP 4500 forwarded to it.", natt.DataOut >= enoughTries && natt.Age >= enoughWaiting}
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
	case !c.ClockSet && (c.flow(IKE).Certificates || c.flow(NATT).Certificates):
		return c.clock("IKE")
	case f.Authenticated:
		return verdict{NoTunnel, fmt.Sprintf("IKE with %s went through to its last exchange on %s, and no ESP followed: one end refuses the other's identity, key or certificate, or nothing was sent through the tunnel.", c.server(), f.Part.text()),
			"Look in the log of the client; if it says connected, send something through the tunnel and ask again.", false}
	}
	return verdict{NoTunnel, fmt.Sprintf("%s answers IKE on %s (packets: %d out, %d in), but the ends do not agree: proposals, identity, key or certificate differ.", c.server(), f.Part.text(), f.Out.Packets, f.In.Packets),
		"Look in the log of the client or of the server, and compare their settings.", false}
}

// clock is what certificates need.
func (c *judge) clock(what string) verdict {
	return verdict{Clock, fmt.Sprintf("%s answers %s, but no tunnel comes of it. It uses certificates, which hold for a time only, and the router could not set its clock by NTP: if the device has no better one, that is why.", c.server(), what),
		"Check the date on the device, and on the router: show status", false}
}
