package l2tp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// xl2tpd's SCCRQ, as it sent it (1.3.18).
const sccrq = "c802 0063 0000 0000 0000 0000 8008 0000 0000 0001 8008 0000 0002 0100 800a 0000 0003 00000003 800a 0000 0004 00000000 " +
	"0008 0000 0006 0690 8008 0000 0007 766d 0013 0000 0008 78656c6572616e63652e636f6d 8008 0000 0009 94ce 8008 0000 000a 0004"

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// message puts AVPs behind an SCCRQ's header.
func message(t *testing.T, avps string) []byte {
	t.Helper()
	b := append(unhex(t, "c802 0000 0000 0000 0000 0000"), unhex(t, avps)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func TestAssignedTunnel(t *testing.T) {
	const typ = "8008 0000 0000 0001 "
	for _, c := range []struct {
		name string
		in   []byte
		want uint16
		err  error
	}{
		{"of xl2tpd", unhex(t, sccrq), 0x94ce, nil},
		{"right behind the type", message(t, typ+"8008 0000 0009 0102"), 0x0102, nil},
		{"behind what another vendor has with that number", message(t, typ+"0008 0009 0009 ffff 8008 0000 0009 0102"), 0x0102, nil},
		{"twice: the first", message(t, typ+"8008 0000 0009 0102 8008 0000 0009 0304"), 0x0102, nil},
		{"with bytes behind the message", append(message(t, typ+"8008 0000 0009 0102"), 1, 2, 3), 0x0102, nil},
		{"hidden", message(t, typ+"c010 0000 0009 00112233445566778899"), 0, ErrHidden},
		{"none", message(t, typ+"8008 0000 0002 0100"), 0, ErrNoTunnel},
		{"zero", message(t, typ+"8008 0000 0009 0000"), 0, ErrMalformed},
		{"four bytes", message(t, typ+"800a 0000 0009 00000102"), 0, ErrMalformed},
		{"an AVP that is longer than the message", message(t, typ+"800f 0000 0009 0102"), 0, ErrMalformed},
		{"an AVP without a length", message(t, typ+"8000 0000 0009 0102"), 0, ErrMalformed},
		{"an AVP that is cut", message(t, typ+"8008 00"), 0, ErrMalformed},
		{"a message that is cut", message(t, typ+"8008 0000 0009 0102")[:24], 0, ErrMalformed},
		{"an SCCRP", message(t, "8008 0000 0000 0002 8008 0000 0009 0102"), 0, ErrNotSCCRQ},
		{"the type in the second place", message(t, "8008 0000 0009 0102 "+typ), 0, ErrNotSCCRQ},
		{"a ZLB", message(t, ""), 0, ErrNotSCCRQ},
		{"of a tunnel that is up", unhex(t, "c802 001c 0001 0000 0000 0000 8008 0000 0000 0001 8008 0000 0009 0102"), 0, ErrNotSCCRQ},
		{"data", unhex(t, "4002 001c 0000 0000 0000 0000 8008 0000 0000 0001 8008 0000 0009 0102"), 0, ErrNotSCCRQ},
		{"L2TPv3", unhex(t, "c803 001c 0000 0000 0000 0000 8008 0000 0000 0001 8008 0000 0009 0102"), 0, ErrNotSCCRQ},
		{"nothing", nil, 0, ErrNotSCCRQ},
	} {
		if got, err := AssignedTunnel(c.in); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %#x, %v; want %#x, %v", c.name, got, err, c.want, c.err)
		}
	}
}

// FuzzAssignedTunnel: no message makes it fail otherwise than by an error, and
// an ID that it finds stands in the message in clear.
func FuzzAssignedTunnel(f *testing.F) {
	b, _ := hex.DecodeString(strings.ReplaceAll(sccrq, " ", ""))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := AssignedTunnel(b)
		if (id == 0) != (err != nil) {
			t.Fatalf("%d with %v", id, err)
		}
		if err == nil && !strings.Contains(string(b), "\x00\x00\x00\x09"+string(binary.BigEndian.AppendUint16(nil, id))) {
			t.Fatalf("%#x is not in %x", id, b)
		}
	})
}
