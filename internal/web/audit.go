package web

import (
	"net/http"
	"net/url"
	"strconv"

	"castellan.dev/activities/record"
)

// audit records who had payloads opened, before they are shown. Without the record nothing is shown:
// the connection is cut.
func (s *Site) audit(r *http.Request, payloads int) {
	facts := map[string]string{"payloads": strconv.Itoa(payloads)}
	if from, err := url.Parse(r.Referer()); err == nil && from.Path != "" && len(from.Path) <= 512 {
		facts["page"] = from.Path // as the browser says; a hint, no proof
	}
	_, err := s.parts.Recorder.Append(r.Context(), record.Entry{
		Workflow: "web/decode", Step: "web.decode/" + newToken(), Phase: record.Fact, Actor: userOf(r),
		Reason: "payloads opened in the Web UI", At: s.parts.Now(), Facts: facts,
	})
	if err != nil {
		s.parts.Logger.Error("payloads not shown: cannot record who opens them", "user", userOf(r), "error", err)
		panic(http.ErrAbortHandler)
	}
	s.parts.Logger.Info("payloads opened", "user", userOf(r), "payloads", payloads, "page", facts["page"])
}
