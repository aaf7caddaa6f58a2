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
	var b bytes.Buffer
	if err := json.Indent(&b, s.Compact(), "", "  "); err != nil { // what Compact writes is JSON
		panic(err)
	}
	return append(b.Bytes(), '\n')
}

// Parse reads a settings document as Export and Compact write it. It is
// strict: what it doesn't know is a problem with its path. What is missing
// keeps its default. Older versions are migrated, newer ones refused. Parse
// doesn't Validate, and takes "(set)" for a secret (see MergeSecrets). The
// tree is nil when there are problems.
func Parse(data []byte) (*Settings, Problems) {
	if len(data) > MaxJSON {
		return nil, tooLarge(data)
	}
	data = bytes.TrimSpace(data)
	current := data
	if !bytes.HasPrefix(data, written) {
		var problems Problems
		if current, problems = migrated(data); problems != nil {
			return nil, problems
		}
	}
	s := Default()
	d := &decoder{scanner: scanner{data: current}}
	if problems := d.tree(s); problems != nil {
		return nil, problems
	}
	return s, nil
}

// written is how Compact begins. Nothing is migrated in what begins so.
var written = fmt.Appendf(nil, `{"version":%d,"`, Version)

// migrated brings a document to the current version.
func migrated(data []byte) ([]byte, Problems) {
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
	return current, nil
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

func tooLarge(data []byte) Problems {
	return Problems{{Path: "settings", Value: strconv.Itoa(len(data)) + " bytes", Text: "too large", Allowed: fmt.Sprintf("at most %d bytes", MaxJSON)}}
}

// decoder reads a document token by token, so that a hostile one never becomes
// a tree of its own in memory.
type decoder struct {
	scanner
	merge    bool // the document is a patch: entries come to those that are there
	problems Problems
}

func (d *decoder) addf(path, value, text, allowed string) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, Problem{Path: strings.TrimSpace(path), Value: clip(value), Text: text, Allowed: allowed})
	}
}

// tree reads the whole document into s.
func (d *decoder) tree(s *Settings) Problems {
	d.value(root(), reflect.ValueOf(s).Elem(), "")
	if d.bad || d.peek() != 0 || d.pos < len(d.data) {
		err := json.Unmarshal(d.data, new(json.RawMessage))
		if err == nil {
			err = errors.New("nested too deep")
		}
		return Problems{{Path: "settings", Text: "not JSON: " + where(d.data, err)}}
	}
	return d.problems
}

// value reads the next value into v.
func (d *decoder) value(n *Node, v reflect.Value, path string) {
	t := d.next()
	want := byte('{')
	switch n.Kind {
	case Leaf:
		d.leaf(n, v, path, t)
		return
	case List:
		want = '['
	}
	if t.kind == 'n' && (n.Kind == List || n.Kind == Map) {
		v.SetZero()
		return
	}
	if t.kind != want {
		d.skip(t, 0)
		d.addf(path, t.show(), "not what belongs here", map[byte]string{'{': "an object {...}", '[': "a list [...]"}[want])
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
}

func (d *decoder) list(n *Node, v reflect.Value, path string) {
	v.Set(reflect.MakeSlice(n.typ, 0, 0))
	full := false
	for first := true; d.more(first, ']'); first = false {
		if full {
			d.skip(d.next(), 0)
			continue
		}
		if full = v.Len() == n.count; full {
			d.addf(path, "", "too many", fmt.Sprint("at most ", n.count))
			d.skip(d.next(), 0)
			continue
		}
		e := reflect.New(n.elem()).Elem()
		d.leaf(n, e, path, d.next())
		v.Set(reflect.Append(v, e))
	}
}

func (d *decoder) entries(n *Node, v reflect.Value, path string) {
	if !d.merge || v.IsNil() {
		size := 0
		if n.typ == reflect.TypeFor[map[string]Forward]() { // each of about 80 bytes
			size = min(n.count, (len(d.data)-d.pos)/80)
		}
		v.Set(reflect.MakeMapWithSize(n.typ, size))
	}
	forwards, _ := v.Interface().(map[string]Forward)
	for first := true; d.more(first, '}'); first = false {
		name := d.key()
		if d.bad {
			return
		}
		if !d.merge && has(v, forwards, name) {
			d.addf(path, name, "given twice", "each name once")
		}
		if d.merge && d.peek() == 'n' {
			d.next()
			v.SetMapIndex(reflect.ValueOf(name), reflect.Value{})
			continue
		}
		if f := (Forward{Enabled: true, Protocol: TCP}); forwards != nil && d.forward(&f) {
			forwards[name] = f
		} else {
			e := n.Entry.fresh()
			d.value(n.Entry, e, path+" "+showWord(name))
			v.SetMapIndex(reflect.ValueOf(name), e)
		}
		if v.Len() > n.count {
			d.addf(path, "", "too many", fmt.Sprint("at most ", n.count))
			for d.more(false, '}') {
				d.key()
				d.skip(d.next(), 0)
			}
			return
		}
	}
}

// has tells whether the map v, which is forwards if those are not nil, has an
// entry of this name.
func has(v reflect.Value, forwards map[string]Forward, name string) bool {
	if forwards != nil {
		_, ok := forwards[name]
		return ok
	}
	return v.MapIndex(reflect.ValueOf(name)).IsValid()
}

func (d *decoder) fields(n *Node, v reflect.Value, path string) {
	seen := map[string]bool{}
	for first := true; d.more(first, '}'); first = false {
		name := d.key()
		if d.bad {
			return
		}
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
			d.skip(d.next(), 0) // read by docVersion
		default:
			d.skip(d.next(), 0)
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
func (d *decoder) leaf(n *Node, v reflect.Value, path string, t token) {
	kind := v.Kind()
	switch t.kind {
	case 't', 'f':
		if kind == reflect.Bool {
			v.SetBool(t.kind == 't')
			return
		}
	case '0':
		if i, err := strconv.Atoi(t.text); err == nil && kind == reflect.Int {
			v.SetInt(int64(i))
			return
		}
	case '"':
		switch {
		case kind == reflect.Bool || kind == reflect.Int:
		case t.text == "" && v.Type() != reflect.TypeFor[Duration]():
			v.SetZero()
			return
		default:
			if err := n.scan(v, t.text); err != nil {
				d.addf(path, t.text, err.Error(), n.Allowed)
			}
			return
		}
	}
	d.skip(t, 0)
	d.addf(path, t.show(), "not what belongs here", map[reflect.Kind]string{
		reflect.Bool: "true or false", reflect.Int: "a number: " + n.Allowed}[kind]+textOf(kind, n))
}

func textOf(kind reflect.Kind, n *Node) string {
	if kind == reflect.Bool || kind == reflect.Int {
		return ""
	}
	return "a text: " + n.Allowed
}

// show is a value that does not belong where it is.
func (t token) show() string {
	switch t.kind {
	case 'n':
		return "null"
	case '{':
		return "{...}"
	case '[':
		return "[...]"
	case 't':
		return "true"
	case 'f':
		return "false"
	}
	return t.text
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
