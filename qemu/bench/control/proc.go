package control

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// usage is what the kernel counted of the router until now.
type usage struct {
	cpu, self time.Duration
	written   int64
	resident  int64
	peak      int64
}

func (r *Router) read() (u usage, err error) {
	pid := strconv.Itoa(r.PID)
	if u.self, err = processCPU("self"); err != nil {
		return u, err
	}
	if r.All {
		u.cpu, err = othersCPU()
	} else {
		u.cpu, err = processCPU(pid)
	}
	if err != nil {
		return u, err
	}
	if u.written, err = field("/proc/"+pid+"/io", "write_bytes"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return u, err
	}
	if u.resident, err = field("/proc/"+pid+"/status", "VmRSS"); err != nil {
		return u, err
	}
	u.peak, err = field("/proc/"+pid+"/status", "VmHWM")
	u.resident, u.peak = u.resident<<10, u.peak<<10 // kB
	return u, err
}

// processCPU is the time that the threads of a process were on a CPU. Linux
// counts it in ns, see Documentation/scheduler/sched-stats.rst.
func processCPU(pid string) (sum time.Duration, err error) {
	tasks, err := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
	if err != nil {
		return 0, err
	}
	if len(tasks) == 0 {
		return 0, fmt.Errorf("process %s: %w", pid, fs.ErrNotExist)
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		first, _, _ := bytes.Cut(b, []byte(" "))
		ns, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// othersCPU is processCPU of all processes but this one, the kernel's own
// threads included: they free what a change of the rules leaves behind.
func othersCPU() (sum time.Duration, err error) {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range list {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		d, err := processCPU(e.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// field is a number of a file of lines such as "VmRSS:   1234 kB".
func field(path, name string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if w := bytes.Fields(line); len(w) >= 2 && string(w[0]) == name+":" {
			return strconv.ParseInt(string(w[1]), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", path, name)
}

// resetPeak makes the kernel count the peak of a process's memory anew, where it
// can (CONFIG_PROC_PAGE_MONITOR).
func resetPeak(pid int) error {
	err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/clear_refs", []byte("5"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
