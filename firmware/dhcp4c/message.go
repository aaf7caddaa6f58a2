package dhcp4c

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// maxMessage is what we say we take (option 57): an Ethernet frame's worth.
const maxMessage = 1500

// exchange identifies one try to get or keep a lease.
type exchange struct {
	xid   dhcpv4.TransactionID
	start time.Time
	// secs since start at the last DISCOVER: the REQUEST that follows it has
	// to carry the same (RFC 2131 section 4.4.1).
	secs uint16
}

func (m *machine) newExchange() exchange {
	e := exchange{start: m.o.Now()}
	m.random(e.xid[:])
	return e
}

func (m *machine) elapsed() uint16 {
	return uint16(min(m.o.Now().Sub(m.ex.start)/time.Second, 65535))
}

// message builds what all messages of this client have in common. ciaddr is
// set only in those that come from a configured address.
func (m *machine) message(t dhcpv4.MessageType, e exchange, ciaddr netip.Addr) *dhcpv4.DHCPv4 {
	zero := net.IPv4zero.To4()
	d := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootRequest,
		HWType:        iana.HWTypeEthernet,
		TransactionID: e.xid,
		NumSeconds:    e.secs,
		ClientIPAddr:  zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		ClientHWAddr: m.o.HWAddr,
		Options:      dhcpv4.Options{},
	}
	if ciaddr.IsValid() {
		d.ClientIPAddr = ciaddr.AsSlice()
	}
	d.UpdateOption(dhcpv4.OptMessageType(t))
	d.UpdateOption(dhcpv4.OptClientIdentifier(append([]byte{byte(iana.HWTypeEthernet)}, m.o.HWAddr...)))
	return d
}

// withParameters adds what DISCOVER and every REQUEST ask for.
func (m *machine) withParameters(d *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	d.UpdateOption(dhcpv4.OptMaxMessageSize(maxMessage))
	if m.o.Hostname != "" {
		d.UpdateOption(dhcpv4.OptHostName(m.o.Hostname))
	}
	d.UpdateOption(dhcpv4.OptParameterRequestList(
		dhcpv4.OptionClasslessStaticRoute, // RFC 3442: before the router option
		dhcpv4.OptionSubnetMask,
		dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionDomainName,
		dhcpv4.OptionInterfaceMTU,
		dhcpv4.OptionIPAddressLeaseTime,
		dhcpv4.OptionRenewTimeValue,
		dhcpv4.OptionRebindingTimeValue,
	))
	return d
}

func (m *machine) discover(e exchange, want netip.Addr) *dhcpv4.DHCPv4 {
	d := m.withParameters(m.message(dhcpv4.MessageTypeDiscover, e, netip.Addr{}))
	if want.IsValid() {
		d.UpdateOption(dhcpv4.OptRequestedIPAddress(want.AsSlice()))
	}
	return d
}

// request makes the REQUEST of RFC 2131 table 4: with ciaddr for RENEWING and
// REBINDING, with the server for SELECTING, with neither for INIT-REBOOT.
func (m *machine) request(e exchange, addr, server, ciaddr netip.Addr) *dhcpv4.DHCPv4 {
	d := m.withParameters(m.message(dhcpv4.MessageTypeRequest, e, ciaddr))
	if !ciaddr.IsValid() {
		d.UpdateOption(dhcpv4.OptRequestedIPAddress(addr.AsSlice()))
	}
	if server.IsValid() {
		d.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	}
	return d
}

func (m *machine) decline(l *Lease) *dhcpv4.DHCPv4 {
	d := m.message(dhcpv4.MessageTypeDecline, m.newExchange(), netip.Addr{})
	d.UpdateOption(dhcpv4.OptRequestedIPAddress(l.Addr.Addr().AsSlice()))
	d.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	return d
}

func (m *machine) release(l *Lease) *dhcpv4.DHCPv4 {
	d := m.message(dhcpv4.MessageTypeRelease, m.newExchange(), l.Addr.Addr())
	d.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	return d
}

// received is a reply to this client that was well-formed.
type received struct {
	*dhcpv4.DHCPv4
	from net.HardwareAddr // the frame's source
}

// parse returns nil for everything that is not a reply to the given client.
func parse(payload []byte, hw net.HardwareAddr) *dhcpv4.DHCPv4 {
	d, err := dhcpv4.FromBytes(payload)
	if err != nil || d.OpCode != dhcpv4.OpcodeBootReply || d.ClientHWAddr.String() != hw.String() {
		return nil
	}
	switch d.MessageType() {
	case dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak:
		return d
	}
	return nil
}
