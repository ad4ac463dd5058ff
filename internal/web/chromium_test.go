package web_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// chromium is a real browser with one tab, driven over the DevTools protocol through a pipe
// (https://chromedevtools.github.io/devtools-protocol, --remote-debugging-pipe).
type chromium struct {
	t       *testing.T
	to      io.Writer
	from    *bufio.Reader
	session string
	last    int
}

func openChromium(t *testing.T) *chromium {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is missing: run `make setup`")
	}
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--user-data-dir="+t.TempDir(), "--window-size=1280,900",
		"--remote-debugging-pipe", "about:blank")
	command.ExtraFiles = []*os.File{theirIn, theirOut} // descriptors 3 and 4
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &chromium{t: t, to: ourOut, from: bufio.NewReaderSize(ourIn, 1<<20)}
	t.Cleanup(func() {
		ourOut.Close() // it ends by itself when the pipe does
		done := make(chan struct{})
		go func() { command.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			command.Process.Kill()
			<-done
		}
		ourIn.Close()
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	return b
}

// call sends one command and reads until its answer.
func (b *chromium) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.last++
	command := map[string]any{"id": b.last, "method": method, "params": params}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		message, err := b.from.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(message[:len(message)-1], &answer); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		if answer.ID != b.last {
			continue
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
		return
	}
}

func (b *chromium) open(url string) {
	b.t.Helper()
	var answer struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": url}, &answer)
	if answer.ErrorText != "" {
		b.t.Fatalf("open page: %s", answer.ErrorText)
	}
}

// run evaluates an expression in the page; while a page changes there may be nothing to ask.
func (b *chromium) run(expression string) string {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		return ""
	}
	return fmt.Sprint(answer.Result.Value)
}

// await waits until the page's text has all of the words.
func (b *chromium) await(words ...string) {
	b.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		text := b.run("document.readyState === 'complete' && document.body ? document.body.innerText : ''")
		missing := ""
		for _, word := range words {
			if !strings.Contains(strings.ToLower(text), strings.ToLower(word)) {
				missing = word
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the page at %s never showed %q:\n%s", b.run("location.href"), missing, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// fill puts text into a form's fields and sends it as a person would.
func (b *chromium) fill(fields map[string]string) {
	b.t.Helper()
	for name, value := range fields {
		quoted, err := json.Marshal(value)
		if err != nil {
			b.t.Fatal(err)
		}
		b.run(fmt.Sprintf("document.querySelector('main input[name=%s]').value = %s", name, quoted))
	}
	b.run("document.querySelector('main form button').click()")
}

// picture keeps a screenshot where WEB_PICTURES says; without it nothing is kept.
func (b *chromium) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("WEB_PICTURES")
	if dir == "" {
		return
	}
	var answer struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &answer)
	image, err := base64.StdEncoding.DecodeString(answer.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/"+name+".png", image, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
