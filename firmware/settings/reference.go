package settings

import "strings"

// Reference is the manual of all settings in Markdown, made from the schema.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Settings\n\n" +
		"Each setting is changed with `set PATH VALUE` and taken back to its default with `delete PATH`;\n" +
		"nothing takes effect before `commit`. Several values of one area or entry fit in one line:\n" +
		"`set firewall forward web protocol tcp port 8080 to 192.168.1.10 to-port 80`.\n" +
		"Setting a list replaces it as a whole (`none` for an empty one, `any` for no limit); `delete PATH ELEMENT` removes one element.\n")
	for _, n := range root().Children {
		b.WriteString("\n## " + n.Name + "\n\n" + sentence(n.Help) + "\n\n")
		b.WriteString("| path | value | default | allowed | |\n|---|---|---|---|---|\n")
		reference(&b, n, n.Name)
	}
	return b.String()
}

func reference(b *strings.Builder, n *Node, path string) {
	switch n.Kind {
	case Map:
		reference(b, n.Entry, path+" "+strings.ToUpper(strings.Trim(n.Entry.Name, "<>")))
	case Area, Entry:
		if n.Self != nil {
			row(b, n.Self, path, n.Help)
		}
		for _, c := range n.Children {
			reference(b, c, path+" "+c.Name)
		}
	default:
		row(b, n, path, n.Help)
	}
}

func row(b *strings.Builder, n *Node, path, help string) {
	typ, def, allowed := n.Type, n.Default, n.Allowed
	if n.Kind == List {
		typ += " ..."
	}
	if n.Kind == List && n.Empty != "none" && def == "" {
		def = n.Empty
	}
	if def == "" {
		def = "not set"
	} else {
		def = "`" + def + "`"
	}
	if n.Secret {
		allowed = "see the command `" + n.Command + "`"
	}
	cells := []string{"`" + path + "`", typ, def, allowed, sentence(help)}
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(c, "|", `\|`)
	}
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
