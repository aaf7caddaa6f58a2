package linear

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
)

// Ruleset is the one table, as text for `nft -f` or as what the kernel is told.
// Either replaces what was loaded before.
type Ruleset struct {
	helper  bool     // the table has PPTP's
	devices []string // of the flowtable; none: there is no flowtable
	chains  []chain
}

// chain is one that is jumped to, or one on a hook when it has a kind.
type chain struct {
	name, kind, hook, priority, policy string
	rules                              []rule
}

// rule is its parts from left to right.
type rule struct {
	parts   []part
	comment string
}

// part is a match or a statement, as nft reads it and as the kernel does.
type part struct {
	text  string
	exprs []expr.Any
	// states is a verdict map of the connection's state instead of exprs.
	states []stateVerdict
}

type stateVerdict struct {
	state   uint32
	verdict expr.VerdictKind
}

func on(parts ...part) rule { return rule{parts: parts} }

func (r rule) called(comment string) rule {
	r.comment = comment
	return r
}

func (r rule) text() string {
	words := make([]string, 0, len(r.parts)+1)
	for _, p := range r.parts {
		words = append(words, p.text)
	}
	if r.comment != "" {
		words = append(words, fmt.Sprintf("comment %q", r.comment))
	}
	return strings.Join(words, " ")
}

// remove declares the table first, because what is not there cannot be deleted.
const remove = "table inet " + Table + "\ndelete table inet " + Table + "\n"

// Text is for `nft -f`.
func (r *Ruleset) Text() string {
	if len(r.chains) == 0 {
		return remove
	}
	var b strings.Builder
	b.WriteString(remove + "table inet " + Table + " {\n")
	if r.helper {
		b.WriteString("\tct helper pptp {\n\t\ttype \"pptp\" protocol tcp;\n\t}\n")
	}
	if len(r.devices) > 0 {
		fmt.Fprintf(&b, "\tflowtable ft {\n\t\thook ingress priority 0;\n\t\tdevices = { \"%s\" };\n\t}\n", strings.Join(r.devices, `", "`))
	}
	for _, c := range r.chains {
		b.WriteString("\tchain " + c.name + " {\n")
		if c.kind != "" {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy %s;\n", c.kind, c.hook, c.priority, c.policy)
		}
		for _, rule := range c.rules {
			b.WriteString("\t\t" + rule.text() + "\n")
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
