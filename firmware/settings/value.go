package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
)

// elem is the type of one value of a Leaf or List.
func (n *Node) elem() reflect.Type {
	if n.Kind == List {
		return n.typ.Elem()
	}
	return n.typ
}

// describe fills in Type, Allowed and Secret of a Leaf or List.
func (n *Node) describe() {
	switch n.elem() {
	case reflect.TypeFor[netip.Addr]():
		n.Type, n.Allowed = "address", "an IPv4 address, e.g. 192.168.1.10"
		return
	case reflect.TypeFor[netip.Prefix]():
		n.Type, n.Allowed = "address/prefix", "an IPv4 address with its prefix length, e.g. 192.168.1.1/24"
		return
	case reflect.TypeFor[Duration]():
		n.Type, n.Allowed = "duration", fmt.Sprintf("%s to %s, e.g. 30m, 12h or 7d", Duration(n.min), Duration(n.max))
		return
	case reflect.TypeFor[Secret]():
		n.Secret = true
	}
	switch n.elem().Kind() {
	case reflect.Bool:
		n.Type, n.Allowed, n.Enum = "on|off", "on or off", []string{"on", "off"}
	case reflect.Int:
		n.Type, n.Allowed = "number", fmt.Sprintf("%d to %d", n.min, n.max)
		if n.zero {
			n.Allowed = "0, or " + n.Allowed
		}
	default:
		n.Type, n.Allowed = formatText(n.format)
		if n.Enum != nil {
			n.Type, n.Allowed = strings.Join(n.Enum, "|"), strings.Join(n.Enum, ", ")
		}
	}
}

// value makes a value of n from text; the error tells what is wrong with it.
func (n *Node) value(text string) (reflect.Value, error) {
	v := reflect.New(n.elem()).Elem()
	if text == "none" && n.Kind == Leaf && n.optional {
		return v, nil
	}
	if err := n.scan(v, text); err != nil {
		return v, err
	}
	return v, n.check(v)
}

// scan reads text into v without looking at limits.
func (n *Node) scan(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *netip.Addr:
		a, err := netip.ParseAddr(text)
		if err != nil {
			return errors.New("not an address")
		}
		*p = a.Unmap()
	case *netip.Prefix:
		a, err := netip.ParsePrefix(text)
		if err != nil {
			return errors.New("not an address with a prefix length")
		}
		*p = a
	case *Duration:
		d, err := parseDuration(text)
		*p = d
		return err
	case *bool:
		b, err := parseBool(text)
		*p = b
		return err
	case *int:
		i, err := strconv.Atoi(text)
		if err != nil {
			return errors.New("not a number in range")
		}
		*p = i
	default:
		switch n.format {
		case "mac":
			text = normalMAC(text)
		case "servers":
			text = normalName(text)
		}
		v.SetString(text)
	}
	return nil
}

func parseBool(text string) (bool, error) {
	switch text {
	case "on", "true", "yes":
		return true, nil
	case "off", "false", "no":
		return false, nil
	}
	return false, errors.New("neither on nor off")
}

// check tells what is wrong with one value by itself, nil when nothing is.
func (n *Node) check(v reflect.Value) error {
	if v.IsZero() && n.Kind == Leaf && (n.optional || n.Secret) {
		return nil
	}
	switch x := v.Interface().(type) {
	case netip.Addr:
		switch {
		case !x.IsValid():
			return errors.New("missing")
		case !x.Is4():
			return errors.New("not an IPv4 address")
		}
	case netip.Prefix:
		switch {
		case !x.IsValid():
			return errors.New("missing")
		case !x.Addr().Is4():
			return errors.New("not an IPv4 address")
		}
	case Duration:
		if int64(x) < n.min || int64(x) > n.max {
			return errors.New("out of range")
		}
	case int:
		if x == 0 && n.min > 0 && !n.zero {
			return errors.New("missing")
		}
		if (int64(x) < n.min || int64(x) > n.max) && (x != 0 || !n.zero) {
			return errors.New("out of range")
		}
	case bool:
	default:
		return n.checkText(v.String())
	}
	return nil
}

func (n *Node) checkText(s string) error {
	if n.Enum == nil {
		return checkFormat(n.format, s)
	}
	for _, e := range n.Enum {
		if s == e {
			return nil
		}
	}
	if s == "" {
		return errors.New("missing")
	}
	return errors.New("unknown value")
}

// text is v as typed after set, "" for a value that is not set.
func (n *Node) text(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case netip.Addr:
		if !x.IsValid() {
			return ""
		}
		return x.String()
	case netip.Prefix:
		if !x.IsValid() {
			return ""
		}
		return x.String()
	case Duration:
		return x.String()
	case Secret:
		return x.String()
	case bool:
		if x {
			return "on"
		}
		return "off"
	case int:
		return strconv.Itoa(x)
	}
	return v.String()
}

func (n *Node) texts(v reflect.Value) []string {
	t := make([]string, v.Len())
	for i := range t {
		t[i] = n.text(v.Index(i))
	}
	return t
}
