package ruleset

import "strconv"

// Meter matches while packets of one key come at no more than Rate a second:
// each key has a bucket of its own in a learned set. A key that the set has no
// room for does not match.
type Meter struct {
	Set         string
	Key         Fields
	Rate, Burst int
}

// Text is nft syntax.
func (e Meter) Text() string {
	return "update @" + e.Set + " { " + fieldsText(e.Key) + " " + Limit{e.Rate, e.Burst}.Text() + " }"
}

// CountOver matches a new connection when its key has more than Most of them
// that are not closed yet. The connections are kept with the key in a learned
// set; one that the set has no room for does not match.
type CountOver struct {
	Set  string
	Key  Fields
	Most int
}

// Text is nft syntax.
func (e CountOver) Text() string {
	return "add @" + e.Set + " { " + fieldsText(e.Key) + " ct count over " + strconv.Itoa(e.Most) + " }"
}
