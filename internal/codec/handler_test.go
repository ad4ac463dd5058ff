package codec_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"castellan.dev/internal/codec"
	"castellan.dev/internal/keyring"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestTheEndpointOnlyDecodes(t *testing.T) {
	ring, _ := newRing(t)
	c := newCodec(t, ring, "here")
	sealed, err := codec.NewDataConverter(c).ToPayloads("value", "other")
	must(t, err)
	body := protojson.Format(sealed)
	tests := map[string]struct {
		method, path, body string
		header             map[string]string
		status, audited    int
	}{
		"decode":                     {"POST", "/codec/decode", body, nil, 200, 2},
		"decode for its namespace":   {"POST", "/decode", body, map[string]string{"X-Namespace": "here"}, 200, 2},
		"decode for another one":     {"POST", "/decode", body, map[string]string{"X-Namespace": "there"}, 403, 0},
		"encode":                     {"POST", "/codec/encode", body, nil, 403, 0},
		"get":                        {"GET", "/decode", "", nil, 405, 0},
		"another path":               {"POST", "/download", body, nil, 404, 0},
		"a form":                     {"POST", "/decode", body, map[string]string{"Content-Type": "text/plain"}, 415, 0},
		"no content type":            {"POST", "/decode", body, map[string]string{"Content-Type": ""}, 415, 0},
		"a charset":                  {"POST", "/decode", body, map[string]string{"Content-Type": "application/json; charset=utf-8"}, 200, 2},
		"not JSON":                   {"POST", "/decode", "value", nil, 400, 0},
		"nothing":                    {"POST", "/decode", "", nil, 400, 0},
		"no payloads":                {"POST", "/decode", "{}", nil, 200, 0},
		"fields of a later version":  {"POST", "/decode", `{"payloads":[],"later":1}`, nil, 200, 0},
		"a body larger than allowed": {"POST", "/decode", `{"payloads":[{"data":"` + strings.Repeat("A", 16<<20) + `"}]}`, nil, 413, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			audited := 0
			handler := codec.NewHandler(c, func(_ *http.Request, n int) { audited += n })
			request := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
			request.Header.Set("Content-Type", "application/json")
			for key, value := range test.header {
				request.Header.Set(key, value)
			}
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, request)
			if recorder.Code != test.status || audited != test.audited {
				t.Errorf("got status %d with %d payloads audited, want %d with %d", recorder.Code, audited, test.status, test.audited)
			}
			if recorder.Header().Get("Cache-Control") != "no-store" {
				t.Error("the answer may be cached")
			}
			plain := strings.Contains(recorder.Body.String(), base64.StdEncoding.EncodeToString([]byte(`"value"`)))
			if plain != (test.audited > 0) {
				t.Errorf("answer in clear: %t, audited: %t", plain, test.audited > 0)
			}
		})
	}
}

func TestTheEndpointAnswersTheSDK(t *testing.T) {
	ring, _ := newRing(t)
	foreign, _ := newRing(t)
	c := newCodec(t, ring, "here")
	server := httptest.NewServer(codec.NewHandler(c, func(*http.Request, int) {}))
	defer server.Close()
	remote := converter.NewRemotePayloadCodec(converter.RemotePayloadCodecOptions{Endpoint: server.URL})
	var mixed []*commonpb.Payload
	for _, dc := range []converter.DataConverter{codec.NewDataConverter(c), converter.GetDefaultDataConverter(), codec.NewDataConverter(newCodec(t, foreign, "here"))} {
		payload, err := dc.ToPayload("value")
		must(t, err)
		mixed = append(mixed, payload)
	}
	got, err := remote.Decode(mixed)
	must(t, err)
	// Ours is opened, an operator's plain one and one that nobody here can open come back as they are.
	for i, want := range []string{`"value"`, `"value"`, string(mixed[2].GetData())} {
		if string(got[i].GetData()) != want {
			t.Errorf("payload %d: got %d bytes, want %d", i, len(got[i].GetData()), len(want))
		}
	}
	if _, err := remote.Encode(mixed[1:2]); err == nil || !strings.Contains(err.Error(), "only decodes") {
		t.Errorf("encode: got %v, want it refused", err)
	}
}

func BenchmarkPayload(b *testing.B) {
	path := b.TempDir() + "/keyring"
	if err := keyring.Create(path); err != nil {
		b.Fatal(err)
	}
	ring, err := keyring.Load(path)
	if err != nil {
		b.Fatal(err)
	}
	c, err := codec.New(ring, "here")
	if err != nil {
		b.Fatal(err)
	}
	payload := []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: make([]byte, 512)}}
	for b.Loop() {
		sealed, err := c.Encode(payload)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Decode(sealed); err != nil {
			b.Fatal(err)
		}
	}
}
