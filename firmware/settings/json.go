package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/firmware/settings/migrate"
)

// MaxJSON bounds the size of a settings document in bytes: the largest valid
// tree takes less.
const MaxJSON = 4 << 20

// maxProblems bounds what one document reports.
const maxProblems = 100

// Export is the tree as JSON for people and backups: indented, fields in
// schema order, entries by name. Without secrets they read "(set)".
func Export(s *Settings, withSecrets bool) []byte {
	if !withSecrets {
		s = s.Redacted()
	}
	b, err := json.MarshalIndent(s.normal(), "", "  ")
	if err != nil { // no type in the tree can fail to marshal
		panic(err)
	}
	return append(b, '\n')
}

// normal is a copy that has empty lists in place of nil ones, which JSON would
// write as null.
func (s *Settings) normal() *Settings {
	c := s.Clone()
	var walk func(*Node, reflect.Value)
	walk = func(n *Node, v reflect.Value) {
		if n.Kind == List && v.IsNil() {
			v.Set(reflect.MakeSlice(n.typ, 0, 0))
		}
		if n.Kind == Area {
			for _, ch := range n.Children {
				walk(ch, v.Field(ch.field))
			}
		}
	}
	walk(root(), reflect.ValueOf(c).Elem())
	return c
}

// Parse reads a settings document as Export and Compact write it. It is
// strict: what it doesn't know is a problem with its path. What is missing
// keeps its default. Older versions are migrated, newer ones refused. Parse
// doesn't Validate, and takes "(set)" for a secret (see MergeSecrets). The
// tree is nil when there are problems.
func Parse(data []byte) (*Settings, Problems) {
	if len(data) > MaxJSON {
		return nil, Problems{{Path: "settings", Value: strconv.Itoa(len(data)) + " bytes", Text: "too large", Allowed: fmt.Sprintf("at most %d bytes", MaxJSON)}}
	}
	data = bytes.TrimSpace(data)
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		return nil, Problems{{Path: "settings", Text: "not JSON: " + where(data, err)}}
	}
	version, p := docVersion(data)
	if p != nil {
		return nil, Problems{*p}
	}
	current, err := migrate.To(data, version)
	if err != nil {
		return nil, Problems{{Path: "version", Value: strconv.Itoa(version), Text: err.Error(), Allowed: fmt.Sprintf("1 to %d", Version)}}
	}
	s := Default()
	d := &decoder{dec: json.NewDecoder(bytes.NewReader(current))}
	d.dec.UseNumber()
	d.value(root(), reflect.ValueOf(s).Elem(), "")
	if d.problems != nil {
		return nil, d.problems
	}
	return s, nil
}

func docVersion(data []byte) (int, *Problem) {
	var head struct {
		Version *json.RawMessage `json:"version"`
	}
	allowed := fmt.Sprintf("%d", Version)
	if err := json.Unmarshal(data, &head); err != nil {
		return 0, &Problem{Path: "settings", Text: "not a JSON object", Allowed: `{"version": ` + allowed + `, ...}`}
	}
	if head.Version == nil {
		return 0, &Problem{Path: "version", Text: "missing", Allowed: allowed}
	}
	v, err := strconv.Atoi(string(*head.Version))
	if err != nil {
		return 0, &Problem{Path: "version", Value: clip(string(*head.Version)), Text: "not a version", Allowed: allowed}
	}
	return v, nil
}

// where puts line and column before a JSON error.
func where(data []byte, err error) string {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err.Error()
	}
	before := data[:min(max(syntax.Offset-1, 0), int64(len(data)))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	col := len(before) - (bytes.LastIndexByte(before, '\n') + 1) + 1
	return fmt.Sprintf("line %d, column %d: %s", line, col, err)
}

// decoder reads JSON that is known to be well-formed, token by token, so that
// a hostile document never becomes a tree of its own in memory.
type decoder struct {
	dec      *json.Decoder
	problems Problems
}

func (d *decoder) addf(path, value, text, allowed string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, Problem{Path: strings.TrimSpace(path), Value: clip(value), Text: text, Allowed: allowed})
	}
}

func (d *decoder) token() json.Token {
	t, err := d.dec.Token()
	if err != nil { // can't be: the document was checked; end everything
		d.addf("settings", "", err.Error(), "")
		return nil
	}
	return t
}

// value reads the next value into v.
func (d *decoder) value(n *Node, v reflect.Value, path string) {
	t := d.token()
	want := json.Delim('{')
	switch n.Kind {
	case Leaf:
		d.leaf(n, v, path, t)
		return
	case List:
		want = '['
	}
	if t == nil && (n.Kind == List || n.Kind == Map) { // null
		v.SetZero()
		return
	}
	if t != want {
		d.skip(t)
		d.addf(path, show(t), "not what belongs here", map[json.Delim]string{'{': "an object {...}", '[': "a list [...]"}[want])
		return
	}
	switch n.Kind {
	case List:
		d.list(n, v, path)
	case Map:
		d.entries(n, v, path)
	default:
		d.fields(n, v, path)
	}
	if d.dec.More() { // a list or map that was too long
		for d.dec.More() {
			d.skip(d.token())
		}
	}
	d.token() // the closing one
}

func (d *decoder) list(n *Node, v reflect.Value, path string) {
	v.Set(reflect.MakeSlice(n.typ, 0, 0))
	for d.dec.More() {
		if v.Len() == n.count {
			d.addf(path, "", "too many", fmt.Sprint("at most ", n.count))
			return
		}
		e := reflect.New(n.elem()).Elem()
		d.leaf(n, e, path, d.token())
		v.Set(reflect.Append(v, e))
	}
}

func (d *decoder) entries(n *Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(n.typ))
	for d.dec.More() {
		if v.Len() == n.count {
			d.addf(path, "", "too many", fmt.Sprint("at most ", n.count))
			return
		}
		name, _ := d.token().(string)
		key := reflect.ValueOf(name)
		if v.MapIndex(key).IsValid() {
			d.addf(path, name, "given twice", "each name once")
		}
		e := n.Entry.fresh()
		d.value(n.Entry, e, path+" "+showWord(name))
		v.SetMapIndex(key, e)
	}
}

func (d *decoder) fields(n *Node, v reflect.Value, path string) {
	seen := map[string]bool{}
	for d.dec.More() {
		name, _ := d.token().(string)
		if seen[name] {
			d.addf(path+" "+showWord(name), "", "given twice", "each setting once")
		}
		seen[name] = true
		switch c := n.byJSON(name); {
		case c != nil && c == n.Self:
			d.value(c, v.Field(c.field), path)
		case c != nil:
			d.value(c, v.Field(c.field), strings.TrimSpace(path+" "+c.Name))
		case name == "version" && path == "":
			d.skip(d.token()) // read by docVersion
		default:
			d.skip(d.token())
			known := n.jsonNames()
			text := "unknown setting"
			if near := Nearest(name, known); near != "" {
				text += "; did you mean " + near + "?"
			}
			d.addf(path+" "+showWord(name), "", text, strings.Join(known, ", "))
		}
	}
}

// leaf reads one value: a boolean, a number, or a text for everything else.
func (d *decoder) leaf(n *Node, v reflect.Value, path string, t json.Token) {
	kind := v.Kind()
	switch x := t.(type) {
	case bool:
		if kind == reflect.Bool {
			v.SetBool(x)
			return
		}
	case json.Number:
		if i, err := strconv.Atoi(string(x)); err == nil && kind == reflect.Int {
			v.SetInt(int64(i))
			return
		}
	case string:
		switch {
		case kind == reflect.Bool || kind == reflect.Int:
		case x == "" && v.Type() != reflect.TypeFor[Duration]():
			v.SetZero()
			return
		default:
			if err := n.scan(v, x); err != nil {
				d.addf(path, x, err.Error(), n.Allowed)
			}
			return
		}
	}
	d.skip(t)
	d.addf(path, show(t), "not what belongs here", map[reflect.Kind]string{
		reflect.Bool: "true or false", reflect.Int: "a number: " + n.Allowed}[kind]+textOf(kind, n))
}

func textOf(kind reflect.Kind, n *Node) string {
	if kind == reflect.Bool || kind == reflect.Int {
		return ""
	}
	return "a text: " + n.Allowed
}

// skip reads to the end of the value that t begins.
func (d *decoder) skip(t json.Token) {
	depth := 0
	for {
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth <= 0 {
			return
		}
		var err error
		if t, err = d.dec.Token(); err != nil {
			return
		}
	}
}

func show(t json.Token) string {
	switch t {
	case nil:
		return "null"
	case json.Delim('{'):
		return "{...}"
	case json.Delim('['):
		return "[...]"
	}
	return fmt.Sprint(t)
}

func (n *Node) byJSON(name string) *Node {
	if n.Self != nil && n.Self.json == name {
		return n.Self
	}
	for _, c := range n.Children {
		if c.json == name {
			return c
		}
	}
	return nil
}

func (n *Node) jsonNames() []string {
	var names []string
	if n.Self != nil {
		names = append(names, n.Self.json)
	}
	for _, c := range n.Children {
		names = append(names, c.json)
	}
	return names
}
