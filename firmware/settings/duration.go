package settings

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration of whole seconds that reads and prints as text
// ("12h", "1h30m", "7d").
type Duration time.Duration

// String is the shortest text: "12h", not "12h0m0s".
func (d Duration) String() string {
	const day = 24 * time.Hour
	if t := time.Duration(d); t >= day && t%day == 0 {
		return strconv.Itoa(int(t/day)) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText prints d as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, and days: "7d".
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := parseDuration(string(b))
	if err == nil {
		*d = v
	}
	return err
}

func parseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 || n > 10000 {
			return 0, errors.New("not a number of days")
		}
		return Duration(n) * Duration(24*time.Hour), nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("not a duration")
	}
	if v%time.Second != 0 {
		return 0, errors.New("not whole seconds")
	}
	return Duration(v), nil
}
