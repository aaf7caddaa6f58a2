package control

import (
	"slices"
	"time"
)

// Median measures n times and gives the median of each quantity; the peak is
// the largest.
func Median(n int, measure func(i int) (Cost, error)) (Cost, error) {
	all := make([]Cost, n)
	for i := range all {
		var err error
		if all[i], err = measure(i); err != nil {
			return Cost{}, err
		}
	}
	c := Cost{
		CPU:     time.Duration(middle(all, func(c Cost) int64 { return int64(c.CPU) })),
		Self:    time.Duration(middle(all, func(c Cost) int64 { return int64(c.Self) })),
		Wall:    time.Duration(middle(all, func(c Cost) int64 { return int64(c.Wall) })),
		Written: middle(all, func(c Cost) int64 { return c.Written }),
	}
	for _, one := range all {
		c.Peak = max(c.Peak, one.Peak)
	}
	return c, nil
}

func middle(all []Cost, of func(Cost) int64) int64 {
	values := make([]int64, len(all))
	for i, c := range all {
		values[i] = of(c)
	}
	slices.Sort(values)
	return values[len(values)/2]
}
