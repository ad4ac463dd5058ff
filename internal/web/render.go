package web

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"castellan.dev/activities"
)

// page is what every template gets.
type page struct {
	Title   string
	User    string // signed in; empty on the login pages
	Refresh bool   // the page shows what changes by itself
	Body    any
}

// show renders a page as a whole, so that a failure is not sent as half a page.
func (s *Site) show(w http.ResponseWriter, status int, name string, content page) {
	var out bytes.Buffer
	if err := s.pages.ExecuteTemplate(&out, name, content); err != nil {
		s.parts.Logger.Error("render page", "page", name, "error", err)
		http.Error(w, "the page cannot be shown; the log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(out.Bytes()) // the browser notices a cut connection by itself
}

// sorry shows one sentence instead of a page.
func (s *Site) sorry(w http.ResponseWriter, r *http.Request, status int, sentence string) {
	s.show(w, status, "sorry.html", page{Title: http.StatusText(status), User: userOf(r), Body: sentence})
}

// failed shows what the API answered instead of a page.
func (s *Site) failed(w http.ResponseWriter, r *http.Request, err error) {
	if activities.KindOf(err) == activities.NotFound {
		s.sorry(w, r, http.StatusNotFound, err.Error())
		return
	}
	s.parts.Logger.Warn("read for web page", "path", r.URL.Path, "error", err)
	s.sorry(w, r, http.StatusServiceUnavailable, err.Error())
}

func (s *Site) functions() template.FuncMap {
	return template.FuncMap{
		"at":       s.at,
		"ago":      func(t time.Time) string { return relative(s.parts.Now(), t) },
		"short":    short,
		"path":     url.PathEscape,
		"workflow": s.workflowLink,
		"level":    level,
		"words": func(state activities.State) string {
			return strings.ToLower(strings.ReplaceAll(string(state), "_", " "))
		},
		"steps": steps,
	}
}

// at shows a moment as a distance, and as a date to those who point at it.
func (s *Site) at(t time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">–</span>`
	}
	utc := t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s UTC">%s</time>`, // nothing in it comes from outside
		utc.Format(time.RFC3339), utc.Format(time.DateTime), relative(s.parts.Now(), t)))
}

// relative says how far a moment is from now, in the two largest units.
func relative(now, t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	d := t.Sub(now)
	distance := span(d.Abs())
	switch {
	case d.Abs() < time.Second:
		return "just now"
	case d > 0:
		return "in " + distance
	}
	return distance + " ago"
}

func span(d time.Duration) string {
	d = d.Round(time.Second)
	units := []struct {
		name string
		size time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	for i, unit := range units {
		if d < unit.size {
			continue
		}
		text := fmt.Sprintf("%d %s", d/unit.size, unit.name)
		if rest := d % unit.size; i+1 < len(units) && rest >= units[i+1].size && d < 10*unit.size {
			text += fmt.Sprintf(" %d %s", rest/units[i+1].size, units[i+1].name)
		}
		return text
	}
	return "0 s"
}

// short cuts a fingerprint to what people compare.
func short(fingerprint string) string {
	if len(fingerprint) <= 16 {
		return fingerprint
	}
	return fingerprint[:16] + "…"
}

// workflowLink leads to a workflow in Temporal's Web UI.
func (s *Site) workflowLink(workflow, run string) string {
	link := "/temporal/namespaces/" + url.PathEscape(s.parts.Namespace) + "/workflows/" + url.PathEscape(workflow)
	if run != "" {
		link += "/" + url.PathEscape(run)
	}
	return link
}

// level says how a state is coloured.
func level(state activities.State) string {
	switch state {
	case activities.Retired, activities.ProvenDead, activities.Converged:
		return "good"
	case activities.Quarantined:
		return "bad"
	case activities.RolledBack, activities.Aborted, activities.Superseded:
		return "warn"
	case "", activities.NotDue:
		return "idle"
	}
	return "busy"
}

// step is one phase on the way of a rotation.
type step struct {
	Name string
	Mark string // done, here or ahead
}

// steps lists the way of a rotation and where it stands. One that left the way shows how it ended.
func steps(state activities.State) []step {
	way := []activities.State{activities.Planned, activities.Minted, activities.Set, activities.Tested,
		activities.Published, activities.Converged, activities.Retired}
	here := -1
	for i, s := range way {
		if s == state {
			here = i
		}
	}
	if state == activities.ProvenDead {
		way = append(way, state)
		here = len(way) - 1
	}
	if here < 0 {
		return []step{{Name: strings.ToLower(strings.ReplaceAll(string(state), "_", " ")), Mark: "here"}}
	}
	var list []step
	for i, s := range way {
		mark := "ahead"
		switch {
		case i < here, i == here && s.Ended():
			mark = "done"
		case i == here:
			mark = "here"
		}
		list = append(list, step{Name: strings.ToLower(strings.ReplaceAll(string(s), "_", " ")), Mark: mark})
	}
	return list
}
