package settings

// checkPriority finds words that name no device, or one twice.
func checkPriority(c *check) {
	const path = "passthrough priority"
	c.devices(path, c.s.Passthrough.Priority, false)
	seen := map[string]bool{}
	for _, w := range c.s.Passthrough.Priority {
		key := w
		if a, ok := c.s.Device(w); ok && a.IsValid() {
			key = a.String()
		}
		if seen[key] {
			c.addf(path, w, "this device is there twice", "each device once, the first one first")
		}
		seen[key] = true
	}
}
