package settings

import (
	"fmt"
	"log/slog"
)

// System is the router itself.
type System struct {
	Hostname string `json:"hostname" schema:"format=label" help:"the router's name, <name>.lan in DNS"`
	NTP      NTP    `json:"ntp" help:"time servers"`
	Admin    Admin  `json:"admin" help:"who may log in"`
}

// NTP configures the clock.
type NTP struct {
	Servers []string `json:"servers" schema:"format=host,count=8" help:"names or addresses of NTP servers, asked in this order"`
}

// Admin holds the credentials of the one administrator, "admin".
type Admin struct {
	// Password is an argon2id hash in PHC string form, empty when none is set.
	Password Secret `json:"password" schema:"format=phc,command=password" help:"set with the command: password"`
	// Keys are SSH public keys in authorized_keys form.
	Keys []string `json:"keys" schema:"format=key,count=32" help:"SSH public keys that may log in; add with the command: key"`
}

// Secret is a string that is never shown: it prints as "(set)" or "".
type Secret string

// String is "(set)" or "".
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return secretSet
}

// GoString keeps the value out of %#v too.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// LogValue keeps the value out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

func defaultSystem() System {
	return System{
		Hostname: "culvert",
		NTP:      NTP{Servers: []string{"0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org", "3.pool.ntp.org"}},
	}
}

func checkSystem(c *check) {
	seen := map[string]bool{}
	for _, k := range c.s.System.Admin.Keys {
		blob := keyBlob(k)
		if blob != "" && seen[blob] {
			c.addf("system admin keys", k, "the same key twice", "each key once")
		}
		seen[blob] = true
	}
}
