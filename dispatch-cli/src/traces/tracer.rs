//! The spans of messages and batches, by OpenTelemetry's conventions for messaging.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed};

use dispatch_core::{
    Attempt, Error, Message,
    telemetry::{Origin, TraceSpan, Tracer, attributes as names},
};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Link, Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span},
};
use smol_str::SmolStr;

use super::counts::Counts;

/// The process's tracer.
#[derive(Debug)]
pub(super) struct Otel {
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    counts: Arc<Counts>,
}

/// The W3C headers of a message, or a `traceparent` alone.
enum Carrier<'a> {
    Message(&'a Message),
    Parent(&'a str),
}

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match self {
            Self::Message(message) => message.headers().get(key),
            Self::Parent(traceparent) => (key == "traceparent").then_some(traceparent),
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Otel {
    pub(super) fn new(tracer: SdkTracer, counts: Arc<Counts>) -> Self {
        Self {
            tracer,
            propagator: TraceContextPropagator::new(),
            counts,
        }
    }

    /// What the headers say of the span before; an empty context where they say nothing.
    fn context(&self, carrier: &Carrier<'_>) -> Context {
        self.propagator.extract_with_context(&Context::new(), carrier)
    }

    fn begin(&self, operation: &'static str, kind: SpanKind, place: &Origin, begin: Beginning) -> Arc<dyn TraceSpan> {
        let Beginning {
            parent,
            mut attributes,
            links,
        } = begin;
        attributes.extend([
            KeyValue::new(names::SYSTEM, place.system.to_string()),
            KeyValue::new(names::DESTINATION, place.destination.to_string()),
            KeyValue::new(names::OPERATION_NAME, operation),
            KeyValue::new(names::OPERATION_TYPE, operation),
        ]);
        let span = self
            .tracer
            .span_builder(format!("{operation} {}", place.destination))
            .with_kind(kind)
            .with_attributes(attributes)
            .with_links(links)
            .start_with_context(&self.tracer, &parent);
        Arc::new(Live {
            span: Mutex::new(Some(span)),
            counts: Arc::clone(&self.counts),
        })
    }
}

/// What a span begins with.
struct Beginning {
    parent: Context,
    attributes: Vec<KeyValue>,
    links: Vec<Link>,
}

impl Tracer for Otel {
    fn process(&self, message: &Message, origin: &Origin) -> Option<Arc<dyn TraceSpan>> {
        let size = i64::try_from(message.payload.len()).unwrap_or(i64::MAX);
        let mut attributes = vec![
            KeyValue::new(names::MESSAGE_ID, message.id().to_string()),
            KeyValue::new(names::BODY_SIZE, size),
            KeyValue::new(names::ATTEMPT, i64::from(message.attempt)),
        ];
        if !origin.label.is_empty() {
            attributes.push(KeyValue::new(names::SOURCE, origin.label.to_string()));
        }
        let begin = Beginning {
            parent: self.context(&Carrier::Message(message)),
            attributes,
            links: Vec::new(),
        };
        Some(self.begin(names::PROCESS, SpanKind::Consumer, origin, begin))
    }

    fn batch(&self, traceparents: &[SmolStr], messages: usize, target: &Origin) -> Arc<dyn TraceSpan> {
        let link = |traceparent: &SmolStr| {
            let context = self.context(&Carrier::Parent(traceparent));
            Link::with_context(context.span().span_context().clone())
        };
        let begin = Beginning {
            parent: Context::new(),
            attributes: vec![KeyValue::new(
                names::BATCH_COUNT,
                i64::try_from(messages).unwrap_or(i64::MAX),
            )],
            links: traceparents.iter().map(link).collect(),
        };
        self.begin(names::SEND, SpanKind::Client, target, begin)
    }
}

/// A span that has begun; none once it has ended.
struct Live {
    span: Mutex<Option<Span>>,
    counts: Arc<Counts>,
}

impl Live {
    fn with<R>(&self, then: impl FnOnce(&mut Option<Span>) -> R) -> R {
        then(&mut self.span.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the span, if that has not been done.
    fn finish(&self, last: impl FnOnce(&mut Span)) {
        if let Some(mut span) = self.with(Option::take) {
            last(&mut span);
            if span.span_context().is_sampled() {
                self.counts.finished.fetch_add(1, Relaxed);
            }
            span.end();
        }
    }
}

fn fail(span: &mut Span, kind: String, text: String) {
    span.set_attribute(KeyValue::new(names::ERROR_TYPE, kind));
    span.set_status(Status::error(text));
}

impl TraceSpan for Live {
    fn traceparent(&self) -> String {
        self.with(|span| {
            let context = span.as_ref().map(|span| span.span_context().clone());
            let context = context.unwrap_or(opentelemetry::trace::SpanContext::NONE);
            let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
            format!("00-{trace}-{span}-{:02x}", flags.to_u8() & 1)
        })
    }

    fn attempt_failed(&self, attempt: &Attempt) {
        self.with(|span| {
            let Some(span) = span.as_mut().filter(|span| span.is_recording()) else {
                return;
            };
            let mut attributes = vec![
                KeyValue::new(names::ATTEMPT, i64::from(attempt.number)),
                KeyValue::new(names::CLASS, attempt.class.to_string()),
                KeyValue::new(names::DURATION, attempt.duration.as_secs_f64()),
                KeyValue::new(names::MESSAGE, attempt.text.to_string()),
            ];
            if let Some(code) = &attempt.code {
                attributes.push(KeyValue::new(names::ERROR_TYPE, code.to_string()));
            }
            span.add_event(names::ATTEMPT_FAILED, attributes);
        });
    }

    fn end(&self, outcome: Result<(), &Error>) {
        self.finish(|span| {
            if let Err(error) = outcome {
                let class = error.class().name();
                span.set_attribute(KeyValue::new(names::CLASS, class));
                let kind = error.code().map_or_else(|| class.to_owned(), ToString::to_string);
                fail(span, kind, error.report());
            }
        });
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.finish(|span| fail(span, "cancelled".to_owned(), "cancelled".to_owned()));
    }
}
