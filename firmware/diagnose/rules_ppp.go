package diagnose

import (
	"fmt"
)

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
		if cause, text, fix := c.natInFront("GRE", "use a VPN with UDP, as IKEv2 or WireGuard"); cause != "" {
			return verdict{cause, fmt.Sprintf("The control connection to %s is up, but GRE never came back: %s, and %s", c.server(), c.tries(gre), text), fix, gre.unanswered()}
		}
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
