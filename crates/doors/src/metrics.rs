//! Numbers for Prometheus: a recorder for the whole program, and how requests went.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::routes::TEMPLATES;

/// Upper bounds of latency buckets in seconds: from a cached read to a slow upload.
const BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
];

/// Upper bounds of buckets of what is counted rather than timed: how many transactions were written together.
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the program's recorder, once; later calls give the same one. Without it metrics go
/// nowhere. Whoever runs the server calls [`upkeep`] every few seconds.
pub fn install() -> PrometheusHandle {
    RECORDER
        .get_or_init(|| {
            let builder = PrometheusBuilder::new();
            let builder = builder.set_buckets(BUCKETS).unwrap_or_default();
            let batches = Matcher::Full("store_batch_transactions".to_owned());
            let builder = builder
                .set_buckets_for_metric(batches, COUNTS)
                .unwrap_or_default();
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; /metrics stays empty");
            }
            handle
        })
        .clone()
}

/// Folds what was recorded into the histograms, so that it takes no more memory with time.
pub fn upkeep() {
    if let Some(recorder) = RECORDER.get() {
        recorder.run_upkeep();
    }
}

/// Everything recorded so far, in the text format.
pub(crate) fn render() -> String {
    RECORDER
        .get()
        .map(PrometheusHandle::render)
        .unwrap_or_default()
}

/// How requests of one route went. Looked up once, so that a request costs two atomic steps.
struct RouteMetrics {
    seconds: Histogram,
    /// By the first digit of the status.
    answers: [Counter; 6],
}

/// How requests went.
pub(crate) struct RequestMetrics {
    routes: Vec<RouteMetrics>,
}

impl RequestMetrics {
    /// Registered with the recorder that is installed now.
    pub(crate) fn new() -> Self {
        metrics::describe_histogram!(
            "stratus_http_request_seconds",
            metrics::Unit::Seconds,
            "Time from a request's head to its answer's head"
        );
        metrics::describe_counter!("stratus_http_requests_total", "Answers by route and status");
        let routes = TEMPLATES
            .iter()
            .map(|route| RouteMetrics {
                seconds: metrics::histogram!("stratus_http_request_seconds", "route" => *route),
                answers: ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
                    metrics::counter!("stratus_http_requests_total",
                        "route" => *route, "status" => class)
                }),
            })
            .collect();
        Self { routes }
    }

    /// Counts one answer.
    pub(crate) fn record(&self, template: usize, status: StatusCode, begun: Instant) -> Duration {
        let took = begun.elapsed();
        if let Some(route) = self.routes.get(template) {
            route.seconds.record(took);
            if let Some(counter) = route.answers.get(usize::from(status.as_u16() / 100)) {
                counter.increment(1);
            }
        }
        took
    }
}

/// How connections went.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    /// Open now.
    pub(crate) open: Gauge,
    /// Refused because there are too many.
    pub(crate) refused: Counter,
    /// Whose TLS handshake failed.
    pub(crate) failed_handshakes: Counter,
}

impl ConnectionMetrics {
    pub(crate) fn new() -> Self {
        Self {
            open: metrics::gauge!("stratus_http_connections"),
            refused: metrics::counter!("stratus_http_connections_refused_total"),
            failed_handshakes: metrics::counter!("stratus_http_handshakes_failed_total"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_has_buckets_of_counts() {
        let handle = install();
        metrics::histogram!("store_batch_transactions").record(3.0);
        metrics::histogram!("store_sync_seconds").record(0.003);
        let text = handle.render();
        assert!(
            text.contains("store_batch_transactions_bucket{le=\"4\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("store_sync_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
    }
}
