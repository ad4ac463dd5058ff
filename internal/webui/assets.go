package webui

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"regexp"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/temporalio/ui-server/v2/ui"
)

var (
	policyTag    = regexp.MustCompile(`(?i)<meta[^>]*http-equiv\s*=\s*["']content-security-policy["'][^>]*>`)
	inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)
)

// setAssets serves the pages. Every path that is no file is the one page, which routes by itself.
func setAssets(e *echo.Echo, prefix string) error {
	all, err := ui.Assets()
	if err != nil {
		return err
	}
	files, err := fs.Sub(all, "local")
	if err != nil {
		return err
	}
	content, err := fs.ReadFile(files, "index.html")
	if err != nil {
		return err
	}
	page, policy, err := rebase(string(content), prefix)
	if err != nil {
		return err
	}
	server := echo.WrapHandler(http.FileServerFS(files))
	e.GET("/_app/*", server)
	e.GET("/favicon.ico", server)
	e.GET("/*", func(c echo.Context) error {
		c.Response().Header().Set("Content-Security-Policy", policy)
		return c.Stream(http.StatusOK, "text/html; charset=utf-8", bytes.NewReader(page))
	})
	return nil
}

// rebase moves the page below prefix. ui-server does the same but drops the page's content security
// policy, whose hash no longer fits; here the policy is made anew, with the hash of the page as it is.
func rebase(page, prefix string) (content []byte, policy string, err error) {
	page = strings.ReplaceAll(page, `base: ""`, fmt.Sprintf("base: %q", prefix))
	page = strings.ReplaceAll(page, `"/_app/`, `"`+prefix+`/_app/`)
	page = policyTag.ReplaceAllString(page, "")
	scripts := inlineScript.FindAllStringSubmatch(page, -1)
	if len(scripts) == 0 || !strings.Contains(page, fmt.Sprintf("base: %q", prefix)) {
		return nil, "", errors.New("the page of this ui-server version is built in another way")
	}
	sources := []string{"'strict-dynamic'"}
	for _, script := range scripts {
		sum := sha256.Sum256([]byte(script[1]))
		sources = append(sources, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	return []byte(page), "script-src " + strings.Join(sources, " ") + "; object-src 'none'; base-uri 'self'; frame-ancestors 'self'", nil
}
