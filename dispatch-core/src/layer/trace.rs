//! A span around each message, and the next hop's `traceparent`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use rand::RngExt;
use tower::{Layer, Service};
use tracing::Span;

use crate::{
    Error, Message,
    telemetry::{self, TraceSpan},
};

/// Gives each message a `deliver` span in the log (level debug, fields `id`, `attempt`, `trace_id`), and one of the
/// process's [tracer](crate::telemetry::Tracer) if there is one.
///
/// The sink is handed the `traceparent` of the tracer's span. Without a tracer it is, where the message carries one, one of
/// the same trace with a span id of our own. `tracestate` stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceLayer;

/// The service of [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct Trace<S>(S);

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;
    fn layer(&self, inner: S) -> Trace<S> {
        Trace(inner)
    }
}

impl<S> Service<Message> for Trace<S>
where
    S: Service<Message>,
    S::Error: Into<Error>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = Traced<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, mut message: Message) -> Self::Future {
        // No span, no memory for one: most run without.
        let wanted = telemetry::tracer().is_some() || tracing::enabled!(tracing::Level::DEBUG);
        let spans = if wanted { begin(&mut message) } else { None };
        let followed = spans.as_ref().is_some_and(|spans| spans.followed.is_some());
        if !followed && let Some(next) = message.headers().get("traceparent").and_then(next_hop) {
            message.headers_mut().insert("traceparent", next);
        }
        // Made where it stays: two ways to one place would copy it.
        let Some(spans) = spans else {
            return Traced {
                call: self.0.call(message),
                spans: None,
            };
        };
        let entered = spans.enter();
        let call = self.0.call(message);
        drop(entered);
        Traced {
            call,
            spans: Some(spans),
        }
    }
}

/// Begins the message's spans, and has the next hop know of the tracer's.
#[cold]
fn begin(message: &mut Message) -> Option<Box<Spans>> {
    let followed = telemetry::tracer().and_then(|tracer| tracer.process(message, &telemetry::origin()));
    if let Some(span) = &followed {
        let parent = message.headers().get("traceparent");
        if parent.is_none_or(|parent| parts(parent).is_none()) && message.headers().get("tracestate").is_some() {
            // It belongs to a parent that is none (W3C Trace Context, section 3.3.1).
            message.headers_mut().remove("tracestate");
        }
        message.headers_mut().insert("traceparent", span.traceparent());
    }
    let log = tracing::enabled!(tracing::Level::DEBUG).then(|| {
        let trace_id = trace_id(message);
        tracing::debug_span!("deliver", id = %message.id(), attempt = message.attempt, trace_id)
    });
    (log.is_some() || followed.is_some()).then(|| Box::new(Spans { log, followed }))
}

/// What follows one message.
#[derive(Debug)]
struct Spans {
    log: Option<Span>,
    followed: Option<Arc<dyn TraceSpan>>,
}

impl Spans {
    /// Both are the current ones until the answer is dropped.
    fn enter(&self) -> (Option<tracing::span::Entered<'_>>, Option<telemetry::Entered>) {
        (
            self.log.as_ref().map(Span::enter),
            self.followed.as_ref().map(telemetry::enter),
        )
    }

    /// The message is done. An error takes the trace with it: the message that the driver has may be of none.
    #[cold]
    fn end(&mut self, outcome: Result<(), &mut Error>) {
        let Some(span) = self.followed.take() else { return };
        match outcome {
            Ok(()) => span.end(Ok(())),
            Err(error) => {
                if let Some((trace_id, _)) = parts(&span.traceparent()) {
                    error.set_trace_id(trace_id.into());
                }
                span.end(Err(error));
            }
        }
    }
}

pin_project! {
    /// The call, in its spans if there are any.
    #[derive(Debug)]
    pub struct Traced<F> {
        #[pin]
        call: F,
        spans: Option<Box<Spans>>,
    }
}

impl<F, R, E> Future for Traced<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<Error>,
{
    type Output = Result<R, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(spans) = this.spans else {
            return this.call.poll(cx).map_err(Into::into);
        };
        let entered = spans.enter();
        let mut result = ready!(this.call.poll(cx)).map_err(Into::into);
        drop(entered);
        spans.end(result.as_mut().map(|_| ()));
        Poll::Ready(result)
    }
}

/// The trace id of a message's `traceparent`, if it has a well-formed one (W3C Trace Context, section 3.2).
pub(crate) fn trace_id(message: &Message) -> Option<&str> {
    message
        .headers()
        .get("traceparent")
        .and_then(|header| parts(header))
        .map(|(trace_id, _)| trace_id)
}

/// Trace id and flags of a well-formed `traceparent` of any version but the forbidden `ff`.
fn parts(header: &str) -> Option<(&str, &str)> {
    let mut fields = header.trim().split('-');
    let (version, trace_id, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let known = hex(version, 2) && version != "ff" && (version != "00" || fields.next().is_none());
    let whole = hex(trace_id, 32) && hex(parent, 16) && hex(flags, 2);
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    (known && whole && !zero(trace_id) && !zero(parent)).then_some((trace_id, flags))
}

fn next_hop(header: &str) -> Option<String> {
    let (trace_id, flags) = parts(header)?;
    let span: u64 = rand::rng().random_range(1..=u64::MAX);
    Some(format!("00-{trace_id}-{span:016x}-{flags}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_next_hop_keeps_the_trace_and_changes_the_span() {
        let next = next_hop(PARENT).unwrap();

        assert_eq!((&next[..36], &next[52..]), (&PARENT[..36], "-01"));
        assert_ne!(next, PARENT);
    }

    #[test]
    fn malformed_parents_are_left_alone() {
        for header in [
            "",
            "00-0-0-0",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
        ] {
            assert_eq!(parts(header), None, "{header}");
        }
    }
}
