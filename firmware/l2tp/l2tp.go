// Package l2tp reads L2TPv2 control messages, RFC 2661.
package l2tp

import (
	"encoding/binary"
	"errors"
)

// What an SCCRQ may lack.
var (
	ErrNotSCCRQ  = errors.New("not an L2TPv2 Start-Control-Connection-Request")
	ErrMalformed = errors.New("malformed L2TPv2 control message")
	ErrHidden    = errors.New("the Assigned Tunnel ID is hidden (RFC 2661 4.3)")
	ErrNoTunnel  = errors.New("no Assigned Tunnel ID")
)

const (
	control      = 0xc802 // T, L and S bits, version 2; other bits are 0
	headerLength = 12
	avpLength    = 6 // of an AVP's header

	avpHidden    = 0x4000
	avpLenMask   = 0x03ff
	ietf         = 0 // Vendor ID
	messageType  = 0 // attributes of it
	assignedID   = 9
	startRequest = 1 // SCCRQ
)

// AssignedTunnel is the Assigned Tunnel ID of an SCCRQ (RFC 2661 4.4.3), never
// 0: what the receiver has to put into the header of all that it sends to
// the SCCRQ's sender. message is what UDP carries.
func AssignedTunnel(message []byte) (uint16, error) {
	u16 := func(b []byte, i int) int { return int(binary.BigEndian.Uint16(b[i:])) }
	if len(message) < headerLength || u16(message, 0) != control || u16(message, 4) != 0 {
		return 0, ErrNotSCCRQ
	}
	n := u16(message, 2)
	if n < headerLength || n > len(message) {
		return 0, ErrMalformed
	}
	id, failure := uint16(0), ErrNoTunnel
	for rest, first := message[headerLength:n], true; first || len(rest) > 0; first = false {
		if len(rest) < avpLength {
			return 0, unless(first, ErrMalformed)
		}
		flags := u16(rest, 0)
		n := flags & avpLenMask
		if n < avpLength || n > len(rest) {
			return 0, unless(first, ErrMalformed)
		}
		value := rest[avpLength:n]
		vendor, attribute := u16(rest, 2), u16(rest, 4)
		rest = rest[n:]
		switch {
		case first && (vendor != ietf || attribute != messageType || len(value) != 2 || u16(value, 0) != startRequest):
			return 0, ErrNotSCCRQ
		case vendor != ietf || attribute != assignedID:
		case flags&avpHidden != 0:
			failure = ErrHidden
		case len(value) != 2 || u16(value, 0) == 0:
			return 0, ErrMalformed
		case id == 0:
			id = uint16(u16(value, 0))
		}
	}
	if id == 0 {
		return 0, failure
	}
	return id, nil
}

// unless is err, but for the first AVP, which makes the message an SCCRQ.
func unless(first bool, err error) error {
	if first {
		return ErrNotSCCRQ
	}
	return err
}
