package settings

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// formatText gives what is typed for a text of this format, and what is allowed.
func formatText(format string) (typ, allowed string) {
	switch format {
	case "label":
		return "name", "a to z, 0 to 9 and -, at most 63 characters, no - at either end"
	case "host":
		return "host", "a host name or an IPv4 address, e.g. 0.pool.ntp.org"
	case "device":
		return "device", "an IPv4 address of the LAN, or a name of lan hosts"
	case "devices":
		return "device", "IPv4 addresses and prefixes of the LAN, and names of lan hosts and lan groups"
	case "members":
		return "device", "IPv4 addresses and prefixes of the LAN, and names of lan hosts"
	case "servers":
		return "server", "IPv4 addresses and prefixes, and DNS names, e.g. 198.51.100.1, 198.51.100.0/24 or vpn.example.com"
	case "prefix":
		return "prefix", "an IPv4 prefix of /8 to /32, e.g. 10.20.0.0/16"
	case "mac":
		return "mac", "six pairs of hex digits of one device, e.g. 02:00:00:00:00:01"
	case "key":
		return "key", `a line as in id_ed25519.pub, in quotes: "ssh-ed25519 AAAA... name"`
	case "phc":
		return "password", "an argon2id hash in PHC form: $argon2id$v=19$m=...,t=...,p=...$SALT$HASH"
	}
	return "text", "text"
}

// checkFormat tells what is wrong with a text of this format.
func checkFormat(format, s string) error {
	if s == "" {
		return errors.New("missing")
	}
	ok, text := true, "not right"
	switch format {
	case "label":
		ok, text = isLabel(s), "not a name"
	case "host":
		ok, text = isHost(s), "not a host name or IPv4 address"
	case "device":
		ok, text = isDevice(s), "neither an IPv4 address nor a name"
	case "devices", "members":
		if strings.Contains(s, "/") {
			return checkPrefix(s)
		}
		// A host may have such a name, but here it has another meaning.
		ok, text = isDevice(s) && s != "any" && s != "none", "neither an IPv4 address or prefix nor a name"
	case "servers":
		return checkServer(s)
	case "prefix":
		return checkSubnet(s)
	case "mac":
		ok, text = isMAC(s), "not a device's hardware address"
	case "key":
		return checkKey(s)
	case "phc":
		ok, text = isPHC(s), "not a password hash"
	}
	if !ok {
		return errors.New(text)
	}
	return nil
}

// isLabel: a DNS label (RFC 1123 2.1), lower case only, so that two names
// never differ in case alone.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Is4() && !badUnicast(a)
	}
	if len(s) > 253 {
		return false
	}
	last := ""
	for l := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if !isLabel(strings.ToLower(l)) {
			return false
		}
		last = l
	}
	// A name never ends in a number: 192.168.1 is a broken address.
	return strings.Trim(last, "0123456789") != ""
}

// isDevice: an IPv4 address, or a name as in lan hosts.
func isDevice(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Is4() && !badUnicast(a)
	}
	return isLabel(s)
}

// checkPrefix tells what is wrong with an IPv4 prefix, written by its first
// address so that what it covers is what it says.
func checkPrefix(s string) error {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return errors.New("not an IPv4 address or prefix")
	case p != p.Masked():
		return errors.New("not the first address of that prefix; " + p.Masked().String() + " is")
	}
	return nil
}

// normalMAC writes a MAC as aa:bb:cc:dd:ee:ff; anything else stays.
func normalMAC(s string) string {
	if len(s) == 17 {
		return strings.ToLower(strings.ReplaceAll(s, "-", ":"))
	}
	return s
}

// isMAC: a single device's EUI-48, as normalMAC writes it.
func isMAC(s string) bool {
	if len(s) != 17 || s == "00:00:00:00:00:00" {
		return false
	}
	for i := range len(s) {
		hex := strings.IndexByte("0123456789abcdef", s[i])
		switch {
		case i%3 == 2:
			if s[i] != ':' {
				return false
			}
		case hex < 0, i == 1 && hex&1 != 0: // the group bit
			return false
		}
	}
	return true
}

// isPHC: $argon2id$v=19$m=M,t=T,p=P$salt$hash. "(set)" is no hash: it must
// have been merged with the old value before.
func isPHC(s string) bool {
	p := strings.Split(s, "$")
	if len(s) > 256 || len(p) != 6 || p[0] != "" || p[1] != "argon2id" || p[2] != "v=19" || !strings.HasPrefix(p[3], "m=") {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(p[4])
	hash, err2 := base64.RawStdEncoding.DecodeString(p[5])
	return err1 == nil && err2 == nil && len(salt) >= 8 && len(hash) >= 16
}

// keyFields is how many strings (RFC 4251 5) a public key of a type has in
// all, its type included; 0 for an unknown type.
func keyFields(typ string) int {
	switch typ {
	case "ssh-ed25519":
		return 2
	case "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ssh-ed25519@openssh.com":
		return 3
	case "sk-ecdsa-sha2-nistp256@openssh.com":
		return 4
	}
	return 0
}

// checkKey tells what is wrong with an authorized_keys line. It reads the
// structure of the key (RFC 4253 6.6), not its mathematics.
func checkKey(s string) error {
	for _, r := range s {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0xfffd {
			return errors.New("has a control character or a line break") // it would reach terminals
		}
	}
	f := strings.Fields(s)
	switch {
	case strings.Contains(s, "PRIVATE KEY"):
		return errors.New("this is a private key; give the .pub file's line, and keep this one secret")
	case len(s) > 8192:
		return errors.New("too long for a key")
	case len(f) < 2:
		return errors.New("not a public key")
	case keyFields(f[0]) == 0:
		return errors.New("not a key type that can log in (options before the key are not supported)")
	}
	b, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		return errors.New("the key is damaged: not base64")
	}
	for i := range keyFields(f[0]) {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return errors.New("the key is damaged: cut short")
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		field := b[4:n]
		switch {
		case i == 0 && string(field) != f[0]:
			return errors.New("the key is damaged: its type differs inside")
		case i == 1 && strings.HasSuffix(f[0], "ed25519") && len(field) != 32:
			return errors.New("the key is damaged: wrong length")
		case i == 2 && f[0] == "ssh-rsa" && len(field) < 256:
			return errors.New("an RSA key below 2048 bits is too weak")
		}
		b = b[n:]
	}
	if len(b) != 0 {
		return errors.New("the key is damaged: too long")
	}
	return nil
}

// keyBlob is the part of an authorized_keys line that identifies the key.
func keyBlob(s string) string {
	if f := strings.Fields(s); len(f) > 1 {
		return f[1]
	}
	return ""
}
