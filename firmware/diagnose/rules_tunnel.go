package diagnose

import (
	"fmt"
	"time"
)

// single is a VPN of one connection in which data can be told from what
// negotiates: OpenVPN and WireGuard. alsoSilent is why a server that runs may
// not answer.
func (c *judge) single(f Flow, service, alsoSilent string) verdict {
	if v, ok := c.common(f, service); ok {
		return v
	}
	switch {
	case f.DataIn > 0 && f.DataOut > 0:
		return c.up(f)
	case f.In.Packets == 0 || f.Out.Packets == 0:
		v := c.silent(f, service)
		if !f.Called {
			v.fix += " " + alsoSilent
		}
		return v
	case !f.Watched:
		return c.idle(f)
	case f.Part == OpenVPN && !c.ClockSet && f.DataIn == 0:
		return c.clock("OpenVPN")
	case f.DataIn+f.DataOut > 0:
		return verdict{NoTunnel, fmt.Sprintf("%s and %s have agreed on keys, but data goes one way only (packets: %d out, %d in).", c.device(), c.server(), f.DataOut, f.DataIn),
			"Compare the addresses inside the tunnel: routes and allowed addresses of both ends.", false}
	}
	return verdict{NoTunnel, fmt.Sprintf("%s answers %s (packets: %d out, %d in), but no data follows: the ends do not agree on certificates, login or ciphers, or nothing was sent through the tunnel.", c.server(), f.Part.text(), f.Out.Packets, f.In.Packets),
		"Look in the log of the client; if it says connected, send something through the tunnel and ask again.", false}
}

// sstpLong is how much goes both ways when PPP inside TLS has come up: records,
// and for how long. What they hold is encrypted.
const (
	sstpRecords = 12
	sstpLong    = 5 * time.Second
)

// sstp is TLS, so that only its beginning and its end tell.
func (c *judge) sstp() verdict {
	f := c.flow(SSTP)
	const service = "SSTP server"
	if v, ok := c.common(f, service); ok {
		return v
	}
	switch {
	case f.In.Packets == 0 || f.Out.Packets == 0:
		return c.silent(f, service)
	case f.Alert != "" && !c.ClockSet:
		return c.clock("TLS")
	case f.Alert != "":
		return verdict{NoTunnel, fmt.Sprintf("TLS of %s with %s ended before SSTP began: %s (RFC 8446, 6.2).", c.device(), c.server(), f.Alert),
			"Check the server's certificate, that the device trusts who signed it, and the date on both.", true}
	case !f.Watched:
		return c.idle(f)
	case f.Closed && f.Age < negotiatedLong:
		return verdict{NoTunnel, fmt.Sprintf("%s answers on TCP 443, but the connection ended again (packets: %d out, %d in): a web server without SSTP runs there, or it refuses the login.", c.server(), f.Out.Packets, f.In.Packets),
			"Check the server's name, the user name and the password on the device, and look in the server's log.", f.Last >= upWatched}
	case f.DataIn >= sstpRecords && f.DataOut >= sstpRecords && f.Age >= sstpLong:
		return c.up(f)
	}
	return c.negotiating(f)
}
