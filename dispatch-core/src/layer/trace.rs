//! A span around each message, and the next hop's `traceparent`.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use rand::RngExt;
use tower::{Layer, Service};
use tracing::Span;

use crate::Message;

/// Gives each message a `deliver` span (level debug, fields `id`, `attempt`, `trace_id`) and, where the message carries
/// a W3C `traceparent`, hands the sink one of the same trace with a span id of our own.
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

impl<S: Service<Message>> Service<Message> for Trace<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Traced<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    #[inline(always)]
    fn call(&mut self, mut message: Message) -> Self::Future {
        // No span, no memory for one: most run without.
        let span = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let trace_id = trace_id(&message);
            Box::new(tracing::debug_span!("deliver", id = %message.id(), attempt = message.attempt, trace_id))
        });
        if let Some(next) = message.headers().get("traceparent").and_then(next_hop) {
            message.headers_mut().insert("traceparent", next);
        }
        // Made where it stays: two ways to one place would copy it.
        let Some(span) = span else {
            return Traced {
                call: self.0.call(message),
                span: None,
            };
        };
        Traced {
            call: span.in_scope(|| self.0.call(message)),
            span: Some(span),
        }
    }
}

pin_project! {
    /// The call, in its span if there is one.
    #[derive(Debug)]
    pub struct Traced<F> {
        #[pin]
        call: F,
        span: Option<Box<Span>>,
    }
}

impl<F: Future> Future for Traced<F> {
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.as_ref().map(|span| span.enter());
        this.call.poll(cx)
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
