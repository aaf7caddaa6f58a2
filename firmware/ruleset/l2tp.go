package ruleset

// Expressions for L2TP of several devices, see package plan/passthrough. Family
// ip only.

// Fields of L2TPv2 in UDP (RFC 2661 3.1), and of the connection.
const (
	FieldTunnel      Field = iota + FieldQuotedCookieLow + 1 // Tunnel ID in a header without Length
	FieldTunnelLong                                          // and in one with Length
	FieldFirstSource                                         // address that the connection's first packet came from
	FieldFirstSport                                          // and its port
)

// SetDport writes the destination port of UDP that a learned map has for the
// key, whose element lives on by it; a key that is not in the map does not match.
type SetDport struct {
	Key Fields
	Map string
	// Unsummed is for packets without a checksum, which RFC 768 writes as 0.
	Unsummed bool
}

// Text is nft syntax.
func (e SetDport) Text() string {
	key := fieldsText(e.Key)
	t := "udp dport set " + key + " map @" + e.Map + " update @" + e.Map + " { " + key + " : udp dport }"
	if e.Unsummed {
		return "udp checksum 0 " + t
	}
	return t
}
