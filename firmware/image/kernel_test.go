package image

import (
	"strings"
	"testing"
)

func TestCheckFragmentNamesLostLines(t *testing.T) {
	config := []byte("CONFIG_A=y\nCONFIG_NAME=\"x y\"\n# CONFIG_B is not set\nCONFIG_ON=y\n")
	if err := checkFragment([]byte("# a comment\nCONFIG_A=y\nCONFIG_NAME=\"x y\"\n# CONFIG_B is not set\n# CONFIG_GONE is not set\nCONFIG_C=n\n"), config); err != nil {
		t.Errorf("all lines are there, got %v", err)
	}
	err := checkFragment([]byte("CONFIG_A=y\nCONFIG_B=y\nCONFIG_GONE=y\n# CONFIG_ON is not set\nCONFIG_NAME=\"z\"\n"), config)
	if err == nil {
		t.Fatal("lost lines were not noticed")
	}
	for _, want := range []string{"CONFIG_B=y", "CONFIG_GONE=y", "CONFIG_ON is not set", `CONFIG_NAME="z"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "CONFIG_A") {
		t.Errorf("CONFIG_A survived but is named in: %v", err)
	}
}

// TestFlavoursHaveTheirFragments also holds the options without which nothing works or a mistake
// stays unseen for long.
func TestFlavoursHaveTheirFragments(t *testing.T) {
	all, err := LoadFlavours("../..")
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range all {
		frag, err := f.fragment("../..")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == peersFlavour {
			continue
		}
		for _, want := range []string{"CONFIG_COMPAT_32BIT_TIME=y", "CONFIG_PANIC_TIMEOUT=5", "# CONFIG_MODULES is not set", "CONFIG_MISC_FILESYSTEMS=y"} {
			if !strings.Contains(string(frag), want+"\n") {
				t.Errorf("%s lacks %s", name, want)
			}
		}
	}
}

func TestKeyDependsOnEveryInput(t *testing.T) {
	base := key{"a": "1", "b": "2"}
	if base.String() != (key{"b": "2", "a": "1"}).String() {
		t.Error("order changes the key")
	}
	for _, other := range []key{{"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "c": "2"}, {"a": "2", "b": "1"}} {
		if other.String() == base.String() {
			t.Errorf("%v has the key of %v", other, base)
		}
	}
}
