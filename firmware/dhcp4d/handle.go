package dhcp4d

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// maxProbes bounds the goroutines and sockets that a flood of DISCOVERs can
// cause; an offer beyond it goes out unprobed.
const maxProbes = 8

// probeTries is how many addresses in a row may turn out to be in use.
const probeTries = 4

// reply is an answer and where it goes.
type reply struct {
	msg *dhcpv4.DHCPv4
	dst netip.Addr
	to  net.HardwareAddr
}

type probeResult struct {
	req   *dhcpv4.DHCPv4
	addr  netip.Addr
	user  net.HardwareAddr // nil: the address is free
	tries int
}

var (
	everybody   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	everybodyHW = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// parse returns nil for what is no request of an Ethernet host on this link.
// Requests of relays are none: this server serves the link alone.
func parse(payload []byte) *dhcpv4.DHCPv4 {
	d, err := dhcpv4.FromBytes(payload)
	if err != nil || d.OpCode != dhcpv4.OpcodeBootRequest || d.HWType != iana.HWTypeEthernet ||
		len(d.ClientHWAddr) != 6 || d.ClientHWAddr[0]&1 != 0 || d.ClientHWAddr.String() == "00:00:00:00:00:00" {
		return nil
	}
	if g := addrFrom(d.GatewayIPAddr); g.IsValid() && !g.IsUnspecified() {
		return nil
	}
	return d
}

func addrFrom(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func keyOf(id []byte, mac string) string {
	if len(id) >= 2 {
		return "id:" + string(id)
	}
	return "hw:" + mac
}

func clientOf(req *dhcpv4.DHCPv4) client {
	id := req.Options.Get(dhcpv4.OptionClientIdentifier)
	if len(id) < 2 || len(id) > 255 {
		id = nil
	}
	mac := req.ClientHWAddr.String()
	return client{key: keyOf(id, mac), mac: mac, hw: req.ClientHWAddr, id: id, host: hostName(req)}
}

// hostName is what the client calls itself: option 12, or option 81 (RFC
// 4702), where it is text or, with the E bit set, in DNS wire format.
func hostName(req *dhcpv4.DHCPv4) string {
	if h := req.HostName(); h != "" {
		return h
	}
	const e = 0x04
	fqdn := req.Options.Get(dhcpv4.OptionFQDN)
	switch {
	case len(fqdn) < 4:
		return ""
	case fqdn[0]&e == 0:
		return string(fqdn[3:])
	}
	n := int(fqdn[3])
	return string(fqdn[4:][:min(n, len(fqdn)-4)])
}

// handle answers one message.
func (s *Server) handle(req *dhcpv4.DHCPv4) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(s.answer(req))
}

func (s *Server) send(r *reply) {
	if r == nil {
		return
	}
	if err := s.conn.Send(r.msg.ToBytes(), s.t.cfg.Router.Addr(), r.dst, r.to); err != nil {
		s.o.Log.Debug("DHCP server: cannot send", "to", r.dst, "err", err)
	}
}

func (s *Server) answer(req *dhcpv4.DHCPv4) *reply {
	c := clientOf(req)
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.discover(req, c, 0)
	case dhcpv4.MessageTypeRequest:
		return s.request(req, c)
	case dhcpv4.MessageTypeDecline:
		s.decline(req, c)
	case dhcpv4.MessageTypeRelease:
		addr := addrFrom(req.ClientIPAddr)
		if s.forUs(req) && s.t.release(c, addr) {
			s.o.Log.Info("DHCP lease released", "address", addr, "mac", c.mac)
		}
	case dhcpv4.MessageTypeInform:
		return s.inform(req)
	}
	return nil
}

// forUs reports whether the message names this server or none.
func (s *Server) forUs(req *dhcpv4.DHCPv4) bool {
	id := addrFrom(req.ServerIdentifier())
	return !id.IsValid() || s.t.isSelf(id)
}

// discover offers an address; one that is new to the client after a probe.
func (s *Server) discover(req *dhcpv4.DHCPv4, c client, tries int) *reply {
	b, fresh := s.t.choose(c, addrFrom(req.RequestedIPAddress()))
	if b == nil {
		s.full(c)
		return nil
	}
	if b.probing {
		return nil // the offer follows when the probe is over
	}
	if fresh && s.o.ProbeWait > 0 && s.probes < maxProbes && tries < probeTries {
		b.probing = true
		s.probes++
		ctx, conn, wait, addr := s.ctx, s.conn, s.o.ProbeWait, b.addr
		go func() {
			user, err := conn.Probe(ctx, addr, wait)
			if err != nil {
				s.o.Log.Debug("DHCP server: no ARP probe", "address", addr, "err", err)
			}
			s.probed <- probeResult{req, addr, user, tries}
		}()
		return nil
	}
	return s.offer(req, b.addr)
}

// afterProbe offers the probed address, or looks for another one.
func (s *Server) afterProbe(p probeResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probes--
	c := clientOf(p.req)
	b := s.t.byAddr[p.addr]
	if b == nil || b.key != c.key || !b.probing {
		return // the configuration changed meanwhile
	}
	b.probing = false
	// A client may still use the very address that it had from us.
	if p.user != nil && p.user.String() != c.mac {
		s.o.Log.Warn("DHCP: a device uses an address that it was not given", "address", p.addr, "mac", p.user.String())
		s.t.abandon(b)
		s.send(s.discover(p.req, c, p.tries+1))
		return
	}
	s.send(s.offer(p.req, p.addr))
}

// full says that the pool is exhausted, once a minute.
func (s *Server) full(c client) {
	if now := s.o.Now(); now.Sub(s.fullSince) >= time.Minute {
		s.fullSince = now
		s.o.Log.Warn("DHCP pool is full; make it larger with: set lan dhcp end",
			"from", s.t.cfg.PoolStart, "to", s.t.cfg.PoolEnd, "mac", c.mac)
	}
}

// request is RFC 2131 section 4.3.2.
func (s *Server) request(req *dhcpv4.DHCPv4, c client) *reply {
	want, ciaddr := addrFrom(req.RequestedIPAddress()), addrFrom(req.ClientIPAddr)
	if id := addrFrom(req.ServerIdentifier()); id.IsValid() { // SELECTING
		if !s.t.isSelf(id) {
			s.t.withdraw(c)
			return nil
		}
		if !want.IsValid() {
			return nil
		}
		if !s.t.available(c, want) {
			return s.nak(req, want, "address is not available")
		}
		return s.ack(req, c, want)
	}
	if !want.IsValid() || ciaddr.IsValid() && !ciaddr.IsUnspecified() { // RENEWING, REBINDING
		want = ciaddr
	} // else INIT-REBOOT
	known := s.t.byKey[c.key]
	switch {
	case !want.IsValid() || want.IsUnspecified():
		return nil
	case !s.t.cfg.Router.Contains(want):
		return s.nak(req, want, "wrong network")
	case known != nil && known.state == leased && known.addr != want && s.t.fixed[want] != c.mac:
		return s.nak(req, want, "your address is another one")
	case s.t.available(c, want):
		return s.ack(req, c, want)
	case known != nil && known.state == leased || s.t.byAddr[want] != nil || s.t.fixed[want] != "":
		return s.nak(req, want, "address is not yours")
	}
	// In our subnet, outside our pool, and of nobody we know: not ours to
	// judge (RFC 2131 section 4.3.2: MUST remain silent).
	return nil
}

func (s *Server) decline(req *dhcpv4.DHCPv4, c client) {
	addr := addrFrom(req.RequestedIPAddress())
	b := s.t.byAddr[addr]
	if !s.forUs(req) || b == nil || b.key != c.key || b.state == abandoned {
		return
	}
	s.o.Log.Warn("DHCP: a client found its address in use by another device", "address", addr, "mac", c.mac)
	s.t.abandon(b)
}

func (s *Server) inform(req *dhcpv4.DHCPv4) *reply {
	addr := addrFrom(req.ClientIPAddr)
	if !s.t.cfg.isHost(addr) || addr == s.t.cfg.Router.Addr() {
		return nil
	}
	msg := s.message(req, dhcpv4.MessageTypeAck)
	s.parameters(msg)
	s.routes(req, msg, addr)
	return &reply{msg, addr, req.ClientHWAddr}
}

func (s *Server) offer(req *dhcpv4.DHCPv4, addr netip.Addr) *reply {
	return s.grantReply(req, dhcpv4.MessageTypeOffer, addr)
}

func (s *Server) ack(req *dhcpv4.DHCPv4, c client, addr netip.Addr) *reply {
	before := s.t.byAddr[addr]
	isNew := before == nil || before.state != leased || !s.t.live(before)
	b := s.t.grant(c, addr)
	if s.t.squats(c) {
		s.refuseName(c)
	}
	if isNew {
		s.o.Log.Info("DHCP lease", "address", addr, "mac", c.mac, "name", b.name)
	}
	return s.grantReply(req, dhcpv4.MessageTypeAck, addr)
}

// maxRefused bounds the memory for refused names.
const maxRefused = 256

// refuseName says, once for a device and a name, that it does not get it.
func (s *Server) refuseName(c client) {
	key := c.mac + " " + label(c.host)
	if s.refused[key] {
		return
	}
	if len(s.refused) >= maxRefused {
		clear(s.refused)
	}
	s.refused[key] = true
	s.o.Log.Warn("DHCP: a device calls itself by a name that others trust; it gets none", "name", label(c.host), "mac", c.mac)
}

func (s *Server) nak(req *dhcpv4.DHCPv4, addr netip.Addr, why string) *reply {
	s.o.Log.Info("DHCP request refused", "address", addr, "mac", req.ClientHWAddr.String(), "why", why)
	msg := s.message(req, dhcpv4.MessageTypeNak)
	msg.ClientIPAddr = net.IPv4zero.To4()
	msg.UpdateOption(dhcpv4.OptMessage(why))
	// Some clients believe only the server that their lease is from, which
	// had another address before the LAN moved.
	msg.UpdateOption(dhcpv4.OptServerIdentifier(s.t.serverFor(addr).AsSlice()))
	return &reply{msg, everybody, everybodyHW}
}

// message starts a reply: table 3 of RFC 2131.
func (s *Server) message(req *dhcpv4.DHCPv4, typ dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	zero := net.IPv4zero.To4()
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: req.HWType, TransactionID: req.TransactionID, Flags: req.Flags,
		ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		ClientHWAddr: req.ClientHWAddr, Options: dhcpv4.Options{},
	}
	if typ == dhcpv4.MessageTypeAck {
		d.ClientIPAddr = req.ClientIPAddr
	}
	d.UpdateOption(dhcpv4.OptMessageType(typ))
	d.UpdateOption(dhcpv4.OptServerIdentifier(s.t.cfg.Router.Addr().AsSlice()))
	if id := req.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 { // RFC 6842
		d.UpdateOption(dhcpv4.OptClientIdentifier(id))
	}
	return d
}

// parameters adds what every client gets to know about the network.
func (s *Server) parameters(d *dhcpv4.DHCPv4) {
	cfg := &s.t.cfg
	router := net.IP(cfg.Router.Addr().AsSlice())
	d.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(cfg.Router.Bits(), 32)))
	d.UpdateOption(dhcpv4.OptRouter(router))
	dns := make([]net.IP, 0, 2)
	for _, a := range cfg.dns() {
		dns = append(dns, a.AsSlice())
	}
	d.UpdateOption(dhcpv4.OptDNS(dns...))
	if cfg.Domain != "" {
		d.UpdateOption(dhcpv4.OptDomainName(cfg.Domain))
	}
}

// grantReply makes an OFFER or ACK of addr. It goes by unicast to a client
// that has an address or can take one without (RFC 2131 section 4.1).
func (s *Server) grantReply(req *dhcpv4.DHCPv4, typ dhcpv4.MessageType, addr netip.Addr) *reply {
	d := s.message(req, typ)
	d.YourIPAddr = addr.AsSlice()
	s.parameters(d)
	lease := s.t.cfg.lease().Truncate(time.Second)
	d.UpdateOption(dhcpv4.OptIPAddressLeaseTime(lease))
	d.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionRenewTimeValue, Value: dhcpv4.Duration(lease / 2)})
	d.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionRebindingTimeValue, Value: dhcpv4.Duration(lease / 8 * 7)})
	if st, ok := s.t.static[req.ClientHWAddr.String()]; ok && st.Name != "" {
		d.UpdateOption(dhcpv4.OptHostName(st.Name))
	}
	s.routes(req, d, addr)
	ciaddr := addrFrom(req.ClientIPAddr)
	switch {
	case ciaddr.IsValid() && !ciaddr.IsUnspecified():
		return &reply{d, ciaddr, req.ClientHWAddr}
	case req.IsBroadcast():
		return &reply{d, everybody, everybodyHW}
	}
	return &reply{d, addr, req.ClientHWAddr}
}
