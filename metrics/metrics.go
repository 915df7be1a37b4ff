// Package metrics shows the state of relays and consumers to Prometheus, and
// their health to whoever starts and stops processes. The relay command serves it
// with --http; a service with code of its own mounts it where it likes:
//
//	http.Handle("/", metrics.Handler(metrics.Relay(r, time.Minute)))
//
// Health is progress: a relay with messages pending that has confirmed none for
// the limit is not healthy, however well its process feels. Each series is there
// from the start, at zero. docs/operations.md lists names and units.
//
// Collecting reads counters and asks no server. Everything here may be used from
// any goroutine.
package metrics

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Source is one relay or consumer. [Relay] and [Consumer] make them.
type Source struct {
	prometheus.Collector
	healthy, ready func(now time.Time) error
}

// Healthy reports why the source makes no progress, or nil.
func (s Source) Healthy() error { return s.healthy(time.Now()) }

// Ready reports why the source cannot do its work yet or for now, or nil. A relay
// that stands by is ready.
func (s Source) Ready() error { return s.ready(time.Now()) }

// Handler serves /metrics with the sources and the process, /healthz and /readyz.
// The latter two answer 200, or 503 with the reasons.
func Handler(sources ...Source) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, s := range sources {
		registry.MustRegister(s)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", check(sources, Source.Healthy))
	mux.Handle("GET /readyz", check(sources, Source.Ready))
	return mux
}

func check(sources []Source, ask func(Source) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var faults []error
		for _, s := range sources {
			if err := ask(s); err != nil {
				faults = append(faults, err)
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if len(faults) == 0 {
			_, _ = fmt.Fprintln(w, "ok") // the asker is gone: as good
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		for _, err := range faults {
			_, _ = fmt.Fprintln(w, err)
		}
	})
}

// sample is one number of a Stats.
type sample struct {
	kind       prometheus.ValueType
	name, help string
	value      float64
}

func counter(name, help string, value int64) sample {
	return sample{prometheus.CounterValue, name, help, float64(value)}
}

func gauge[N int | int64 | float64](name, help string, value N) sample {
	return sample{prometheus.GaugeValue, name, help, float64(value)}
}

// collector turns a Stats into series at each scrape.
type collector[S any] struct {
	stats   func() S
	samples func(S) []sample   // the same ones each time, whatever their values
	descs   []*prometheus.Desc // theirs

	// more sends what is not a single number; nil: nothing. moreDesc describes it.
	more     func(s S, out chan<- prometheus.Metric)
	moreDesc *prometheus.Desc
}

func newCollector[S any](stats func() S, samples func(S) []sample) *collector[S] {
	c := &collector[S]{stats: stats, samples: samples}
	var none S
	for _, one := range samples(none) {
		c.descs = append(c.descs, prometheus.NewDesc(one.name, one.help, nil, nil))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector[S]) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
	if c.more != nil {
		out <- c.moreDesc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector[S]) Collect(out chan<- prometheus.Metric) {
	s := c.stats()
	for i, one := range c.samples(s) {
		out <- prometheus.MustNewConstMetric(c.descs[i], one.kind, one.value)
	}
	if c.more != nil {
		c.more(s, out)
	}
}

// unix is a time as Prometheus has it; 0 for never.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
