package nettest

import (
	"sort"
	"strings"
)

// NormalListing makes two listings of a table comparable: the order of a set's
// elements in the kernel is that of a hash, that of sets and chains their age,
// lines are cut anywhere, and the content of learned sets does not count.
func NormalListing(text string) string {
	var blocks []string
	var block, elements []string
	learned, inside := false, false
	end := func() {
		sort.Strings(elements)
		blocks = append(blocks, strings.Join(append(block, elements...), "\n"))
		block, elements, learned = nil, nil, false
	}
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if rest, ok := strings.CutPrefix(l, "elements = {"); ok {
			inside, l = true, rest
		}
		switch {
		case inside:
			inside = !strings.HasSuffix(l, "}")
			for e := range strings.SplitSeq(strings.TrimSuffix(l, "}"), ",") {
				if e = strings.TrimSpace(e); e != "" && !learned {
					elements = append(elements, "element "+e)
				}
			}
		case l == "" || strings.HasPrefix(l, "table "):
		case l == "}":
			end()
		default:
			learned = learned || strings.HasPrefix(l, "flags dynamic")
			block = append(block, l)
		}
	}
	sort.Strings(blocks)
	return strings.Join(blocks, "\n\n")
}
