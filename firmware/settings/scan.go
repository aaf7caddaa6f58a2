package settings

import (
	"encoding/json"
	"net/netip"
	"strconv"
)

// scanner reads JSON token by token, without making a tree of it or values of
// what is skipped. It takes what encoding/json takes; at what that refuses it
// is bad, and reads nothing more.
type scanner struct {
	data []byte
	pos  int
	bad  bool
}

// token is what a value begins with: an object or list, or a whole scalar.
type token struct {
	kind byte   // '{' '[' '"' '0' (a number) 't' 'f' 'n', or 0 after an error
	text string // of a string, unquoted, or of a number
}

// maxDepth bounds what skip follows, as encoding/json does.
const maxDepth = 10000

func (s *scanner) fail() token {
	s.bad, s.pos = true, len(s.data)
	return token{}
}

// peek is the next byte that is no white space, 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// next reads the beginning of a value.
func (s *scanner) next() token {
	switch c := s.peek(); {
	case c == '{' || c == '[':
		s.pos++
		return token{kind: c}
	case c == '"':
		b, plain := s.quoted()
		if plain {
			return token{'"', string(b)}
		}
		var text string
		if s.bad || json.Unmarshal(b, &text) != nil {
			return s.fail()
		}
		return token{'"', text}
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return s.fail()
}

func (s *scanner) word(w string) token {
	if len(s.data)-s.pos < len(w) || string(s.data[s.pos:s.pos+len(w)]) != w {
		return s.fail()
	}
	s.pos += len(w)
	return token{kind: w[0]}
}

// quoted reads a string: its bytes where they stand for themselves, else the
// literal with its quotes.
func (s *scanner) quoted() (b []byte, plain bool) {
	start := s.pos
	plain = true
	for s.pos++; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			if plain {
				return s.data[start+1 : s.pos-1], true
			}
			return s.data[start:s.pos], false
		case c == '\\':
			plain = false
			s.pos++
		case c < ' ' || c > '~':
			plain = false
		}
	}
	s.fail()
	return nil, false
}

func (s *scanner) number() token {
	start := s.pos
	digits := true
	for ; s.pos < len(s.data); s.pos++ {
		c := s.data[s.pos]
		if c >= '0' && c <= '9' {
			continue
		}
		if c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			break
		}
		digits = false
	}
	b := s.data[start:s.pos]
	if digits && (b[0] != '0' || len(b) == 1) {
		return token{'0', string(b)}
	}
	var n json.Number
	if json.Unmarshal(b, &n) != nil {
		return s.fail()
	}
	return token{'0', string(n)}
}

// more tells whether another element comes before the end of a list or object,
// and reads what is between: first is true before the first one.
func (s *scanner) more(first bool, end byte) bool {
	switch c := s.peek(); {
	case c == end:
		s.pos++
		return false
	case first && c != 0:
		return true
	case c == ',':
		s.pos++
		if c = s.peek(); c != 0 && c != end {
			return true
		}
	}
	s.fail()
	return false
}

// key reads the name of a field and the colon after it.
func (s *scanner) key() string {
	if s.peek() != '"' {
		s.fail()
		return ""
	}
	t := s.next()
	s.colon()
	return t.text
}

func (s *scanner) colon() {
	if s.peek() != ':' {
		s.fail()
		return
	}
	s.pos++
}

// skip reads to the end of the value that t begins.
func (s *scanner) skip(t token, depth int) {
	end := byte('}')
	switch {
	case depth > maxDepth:
		s.fail()
		return
	case t.kind == '[':
		end = ']'
	case t.kind != '{':
		return
	}
	for first := true; s.more(first, end); first = false {
		if end == '}' {
			s.key()
		}
		s.skip(s.next(), depth+1)
	}
}

// forward reads a port forward as Compact writes it into f, which holds the
// defaults; false, and nothing read, when it is anything else.
func (s *scanner) forward(f *Forward) bool {
	start := s.pos
	if s.peek() == '{' && s.forwardFields(f) {
		return true
	}
	s.pos, s.bad = start, false
	return false
}

func (s *scanner) forwardFields(f *Forward) bool {
	s.pos++
	seen := 0
	for first := true; s.more(first, '}'); first = false {
		if s.peek() != '"' {
			return false
		}
		name, plain := s.quoted()
		if s.colon(); s.bad || !plain {
			return false
		}
		bit, ok := 0, false
		switch string(name) {
		case "enabled":
			bit = 1
			t := s.next()
			f.Enabled, ok = t.kind == 't', t.kind == 't' || t.kind == 'f'
		case "protocol":
			bit = 2
			f.Protocol, ok = s.protocol()
		case "port":
			bit = 4
			f.Port, ok = s.small()
		case "to":
			bit = 8
			f.To, ok = s.address()
		case "to-port":
			bit = 16
			f.ToPort, ok = s.small()
		}
		if !ok || seen&bit != 0 {
			return false
		}
		seen |= bit
	}
	return !s.bad
}

func (s *scanner) protocol() (string, bool) {
	if s.peek() != '"' {
		return "", false
	}
	b, plain := s.quoted()
	for _, p := range [...]string{TCP, UDP, TCPUDP} {
		if plain && string(b) == p {
			return p, true
		}
	}
	return "", false
}

func (s *scanner) small() (int, bool) {
	if c := s.peek(); c < '1' || c > '9' {
		return 0, false
	}
	n := 0
	for ; s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9'; s.pos++ {
		if n = 10*n + int(s.data[s.pos]-'0'); n > 65535 {
			return 0, false
		}
	}
	c := s.peek()
	return n, c == ',' || c == '}'
}

func (s *scanner) address() (netip.Addr, bool) {
	if s.peek() != '"' {
		return netip.Addr{}, false
	}
	b, plain := s.quoted()
	if !plain {
		return netip.Addr{}, false
	}
	var a [4]byte
	part, digits, v := 0, 0, 0
	for i := 0; i <= len(b); i++ {
		switch {
		case i == len(b) || b[i] == '.':
			if digits == 0 || v > 255 || part == 4 || digits > 1 && b[i-digits] == '0' {
				return netip.Addr{}, false
			}
			a[part] = byte(v)
			part, digits, v = part+1, 0, 0
		case b[i] >= '0' && b[i] <= '9' && digits < 3:
			v, digits = 10*v+int(b[i]-'0'), digits+1
		default:
			return netip.Addr{}, false
		}
	}
	return netip.AddrFrom4(a), part == 4
}

// appendQuoted appends text as encoding/json writes it.
func appendQuoted(b []byte, text string) []byte {
	for i := 0; i < len(text); i++ {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			q, err := json.Marshal(text)
			if err != nil { // a string always has a form
				panic(err)
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// appendForward appends f as JSON.
func appendForward(b []byte, f *Forward) []byte {
	switch {
	case f.Enabled && f.Protocol == TCP:
		b = append(b, `{"enabled":true,"protocol":"tcp","port":`...)
	case f.Enabled && f.Protocol == UDP:
		b = append(b, `{"enabled":true,"protocol":"udp","port":`...)
	default:
		b = append(b, `{"enabled":`...)
		b = strconv.AppendBool(b, f.Enabled)
		b = append(b, `,"protocol":`...)
		b = appendQuoted(b, f.Protocol)
		b = append(b, `,"port":`...)
	}
	b = strconv.AppendInt(b, int64(f.Port), 10)
	b = append(b, `,"to":"`...)
	if f.To.Is4() {
		for i, v := range f.To.As4() {
			if i > 0 {
				b = append(b, '.')
			}
			b = strconv.AppendUint(b, uint64(v), 10)
		}
		b = append(b, '"')
	} else {
		b = appendQuoted(b[:len(b)-1], addrText(f.To))
	}
	if f.ToPort != 0 {
		b = append(b, `,"to-port":`...)
		b = strconv.AppendInt(b, int64(f.ToPort), 10)
	}
	return append(b, '}')
}

// addrText is empty for no address.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
