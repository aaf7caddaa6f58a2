package ruleset

import "strconv"

// FieldMark is the packet's mark, as Draw sets it.
const FieldMark Field = FieldFirstSport + 1

// Draw gives the packet a random mark below Of, a power of two.
type Draw struct{ Of int }

// Text is nft syntax.
func (e Draw) Text() string { return "meta mark set meta random & " + strconv.Itoa(e.Of-1) }

// Unmark takes the packet's mark away.
type Unmark struct{}

// Text is nft syntax.
func (Unmark) Text() string { return "meta mark set 0x00000000" }
