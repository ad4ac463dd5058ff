package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// maxFile bounds one file; a larger one is an error, never silently half searched.
const maxFile = 2 << 30

// Source yields named contents to search.
type Source func(yield func(name string, content []byte)) error

// Bytes is content that the caller already holds, such as an exported history.
func Bytes(name string, content []byte) Source {
	return func(yield func(string, []byte)) error {
		yield(name, content)
		return nil
	}
}

// String is text that the caller already holds, such as captured output.
func String(name, content string) Source { return Bytes(name, []byte(content)) }

// File is one file, read as raw bytes.
func File(path string) Source {
	return func(yield func(string, []byte)) error {
		content, err := readFile(path)
		if err == nil {
			yield(path, content)
		}
		return err
	}
}

// Dir is every file below a directory, hidden ones, temporary ones and a database's write-ahead log
// included, read as raw bytes; the names of files are searched as well. A file that vanishes during
// the walk is left out.
func Dir(root string) Source {
	return func(yield func(string, []byte)) error {
		return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.Type().IsRegular() {
				yield(path, nil)
			}
			if err == nil && entry.Type().IsRegular() {
				var content []byte
				if content, err = readFile(path); err == nil {
					yield(path, content)
				}
			}
			if path != root && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
	}
}

// Process is the arguments and the environment of a running process, as anyone on the machine may
// see the former.
func Process(pid int) Source {
	return func(yield func(string, []byte)) error {
		for _, name := range []string{"cmdline", "environ", "comm"} {
			path := filepath.Join("/proc", strconv.Itoa(pid), name)
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			yield(path, content)
		}
		return nil
	}
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("read %q: it has %d bytes, want at most %d", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}
