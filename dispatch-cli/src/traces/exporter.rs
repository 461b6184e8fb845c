//! From finished spans to the collector: in batches, on a thread of its own, and with one word where that fails.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use dispatch_core::telemetry::set_tracer;
use http::Uri;
use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};

use super::{
    client::{Sender, Trouble},
    counts::Counts,
    env::Settings,
    tracer::Otel,
    variable,
};
use crate::failure::{Failure, Result};

/// How long the end of a run waits for the last spans to be sent.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Makes spans and sends them.
#[derive(Debug)]
pub(super) struct Provider {
    provider: SdkTracerProvider,
    counts: Arc<Counts>,
    shown: String,
}

impl Provider {
    /// Sets the process's tracer; connects to nothing yet.
    pub(super) fn start(settings: &Settings) -> Result<Self> {
        let shown = shown(&settings.endpoint);
        let (trouble, counts) = (Trouble::default(), Arc::<Counts>::default());
        let otlp = Otlp::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(settings.endpoint.to_string())
            .with_http_client(Sender::new(settings, Arc::clone(&trouble))?)
            .build()
            .map_err(|error| Failure::run(format!("cannot send traces: {error}")))?;
        let exporter = Watched {
            otlp,
            trouble,
            counts: Arc::clone(&counts),
            shown: shown.clone(),
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_batch_exporter(exporter)
            .build();
        let scope = InstrumentationScope::builder("dispatch").with_version(env!("CARGO_PKG_VERSION"));
        let tracer = Otel::new(provider.tracer_with_scope(scope.build()), Arc::clone(&counts));
        if !set_tracer(tracer) {
            return Err(Failure::run("cannot send traces: the process has a tracer already"));
        }
        tracing::debug!(endpoint = shown, "traces are sent");
        Ok(Self {
            provider,
            counts,
            shown,
        })
    }

    /// Sends what is left, and says what could not be sent.
    pub(super) async fn flush(self) {
        let Self {
            provider,
            counts,
            shown,
        } = self;
        // It waits for the exporter's thread, which this one must not.
        let ending = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS));
        let ended = tokio::time::timeout(LAST_SPANS + Duration::from_millis(500), ending).await;
        let (finished, taken) = (counts.finished.load(Relaxed), counts.taken.load(Relaxed));
        if !matches!(ended, Ok(Ok(Ok(())))) {
            if !counts.failing.load(Relaxed) {
                let unsent = finished.saturating_sub(taken);
                tracing::warn!(endpoint = shown, unsent, "the last traces could not be sent");
            }
        } else if finished > taken {
            tracing::warn!(
                dropped = finished - taken,
                "more traces than could be sent: see OTEL_BSP_MAX_QUEUE_SIZE and OTEL_TRACES_SAMPLER"
            );
        }
    }
}

/// Whose traces they are: what the environment says, over our own name and version.
fn resource() -> Resource {
    let own = [
        KeyValue::new("service.name", "dispatch"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// The endpoint for people: without what may be a secret.
fn shown(endpoint: &Uri) -> String {
    let (scheme, host) = (
        endpoint.scheme_str().unwrap_or("http"),
        endpoint.host().unwrap_or_default(),
    );
    let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}{}", endpoint.path())
}

/// An exporter that says once when the collector is away, and once when it is back.
#[derive(Debug)]
struct Watched {
    otlp: Otlp,
    trouble: Trouble,
    counts: Arc<Counts>,
    shown: String,
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.counts.taken.fetch_add(batch.len() as u64, Relaxed);
        let result = self.otlp.export(batch).await;
        let was = self.counts.failing.swap(result.is_err(), Relaxed);
        let endpoint = &self.shown;
        match &result {
            Err(error) if !was => {
                let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                let error = trouble.unwrap_or_else(|| error.to_string());
                tracing::warn!(endpoint, error, "traces cannot be sent and are lost; messages go on");
            }
            Ok(()) if was => tracing::info!(endpoint, "traces are sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.otlp.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.otlp.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}
