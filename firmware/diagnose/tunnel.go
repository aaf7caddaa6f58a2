package diagnose

import (
	"encoding/binary"
	"fmt"
)

// OpenVPN's opcodes, of its protocol's documentation.
const (
	resetClientV2 = 7
	resetServerV2 = 8
	resetClientV3 = 10
)

// shape tells what a packet is of, whatever its port: WireGuard's handshake
// initiation has 148 bytes and its data whole blocks of 16, OpenVPN's first
// packet an opcode and a session ID.
func shape(p packet) (Part, bool) {
	b := p.inner()
	switch {
	case p.protocol == 17 && len(b) == 148 && binary.LittleEndian.Uint32(b) == 1,
		p.protocol == 17 && len(b) >= 32 && binary.LittleEndian.Uint32(b) == 4 && p.bytes%16 == 12: // 28 bytes of headers
		return WireGuard, true
	case p.protocol == 17 && openvpnReset(b), p.protocol == 6 && len(b) > 2 && int(binary.BigEndian.Uint16(b)) == len(b)-2 && openvpnReset(b[2:]):
		return OpenVPN, true
	}
	return "", false
}

func openvpnReset(b []byte) bool {
	return len(b) >= 14 && b[0]&7 == 0 && (b[0]>>3 == resetClientV2 || b[0]>>3 == resetClientV3) && binary.BigEndian.Uint64(b[1:]) != 0
}

// tunnel looks at the VPNs that have a single connection.
func (f *watched) tunnel(p packet, in bool) {
	b := p.inner()
	if part, ok := shape(p); ok && !in && f.Part == SSTP {
		f.Part = part // OpenVPN at HTTPS's port
	}
	if len(b) == 0 {
		return
	}
	switch f.Part {
	case SSTP:
		f.tls(b, in)
	case WireGuard:
		switch {
		case len(b) < 4:
		case b[0] == 4:
			f.data(in)
		case !in:
			f.Sent = map[byte]string{1: "handshake initiation", 2: "handshake response"}[b[0]]
		}
	case OpenVPN:
		if p.protocol == 6 {
			if len(b) < 3 {
				return
			}
			b = b[2:]
		}
		f.openvpn(b, in)
	}
}

func (f *watched) openvpn(b []byte, in bool) {
	switch op := b[0] >> 3; {
	case op == 6 || op == 9: // P_DATA_V1, P_DATA_V2
		f.data(in)
	case in && (op == resetClientV2 || op == resetClientV3):
		f.Called = f.Called || f.Out.Packets == 0
	case !in:
		f.Sent = map[byte]string{resetClientV2: "P_CONTROL_HARD_RESET_CLIENT_V2", resetClientV3: "P_CONTROL_HARD_RESET_CLIENT_V3",
			resetServerV2: "P_CONTROL_HARD_RESET_SERVER_V2", 4: "P_CONTROL_V1", 5: "P_ACK_V1"}[op]
	}
}

// alerts are those of RFC 8446 6.2 that name a cause.
var alerts = map[byte]string{40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked",
	45: "certificate_expired", 46: "certificate_unknown", 48: "unknown_ca", 70: "protocol_version", 112: "unrecognized_name"}

// tls reads the header of a record, RFC 8446 5.1.
func (f *watched) tls(b []byte, in bool) {
	switch {
	case len(b) < 5 || b[1] != 3:
	case b[0] == 22 && !in && f.DataOut == 0:
		f.Sent = "ClientHello"
	case b[0] == 23:
		f.data(in)
	case b[0] == 21 && len(b) >= 7 && b[5] == 2 && alerts[b[6]] != "": // in the clear
		who := "the device"
		if in {
			who = "the server"
		}
		f.Alert = fmt.Sprintf("%s said %s", who, alerts[b[6]])
	}
}
