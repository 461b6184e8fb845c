//! Who follows messages beyond this process: the hooks that an exporter of spans hangs on.

use std::{
    cell::RefCell,
    fmt,
    sync::{Arc, OnceLock},
};

use smol_str::SmolStr;

use crate::{Attempt, Error, Message};

/// Makes the spans of messages and batches; one for the process, as its log is.
///
/// What it does is done on the driver's thread, for every message: it must not wait.
pub trait Tracer: fmt::Debug + Send + Sync + 'static {
    /// A message enters the layers. Its `traceparent`, if it has a good one, is the parent. None does not follow it.
    fn process(&self, message: &Message, origin: &Origin) -> Option<Arc<dyn TraceSpan>>;

    /// Several messages are about to go out in one call, to `target`. They are linked by the `traceparent`s that the layers
    /// gave them.
    fn batch(&self, traceparents: &[SmolStr], messages: usize, target: &Origin) -> Arc<dyn TraceSpan>;
}

/// A span that has begun. Dropped before its end, it ends as cancelled.
pub trait TraceSpan: Send + Sync + 'static {
    /// The W3C `traceparent` that makes the next hop's spans children of this one.
    fn traceparent(&self) -> String;

    /// An attempt failed; others may follow.
    fn attempt_failed(&self, attempt: &Attempt);

    /// It is over. Called once.
    fn end(&self, outcome: Result<(), &Error>);
}

impl fmt::Debug for dyn TraceSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceSpan")
    }
}

/// Where messages come from or go to, in the words of OpenTelemetry's conventions for messaging.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// What kind of system it is: `aws_sqs`, `postgresql`, `dispatch`, ….
    pub system: SmolStr,
    /// The queue, the channel, the host.
    pub destination: SmolStr,
    /// The source's label in its pipeline; empty for what is no source.
    pub label: SmolStr,
}

impl Origin {
    /// Names a system and the place in it.
    pub fn new(system: impl Into<SmolStr>, destination: impl Into<SmolStr>) -> Self {
        Self {
            system: system.into(),
            destination: destination.into(),
            label: SmolStr::default(),
        }
    }
}

static TRACER: OnceLock<Box<dyn Tracer>> = OnceLock::new();

/// Sets the process's tracer, for good; says whether it was the first. Without one, following costs nothing.
pub fn set_tracer(tracer: impl Tracer) -> bool {
    TRACER.set(Box::new(tracer)).is_ok()
}

/// The process's tracer, if one was set.
#[inline]
#[must_use]
pub fn tracer() -> Option<&'static dyn Tracer> {
    TRACER.get().map(|tracer| &**tracer)
}

/// Begins the span of a call that carries `messages`; none without a tracer.
#[must_use]
pub fn batch_span<'a>(messages: impl IntoIterator<Item = &'a Message>, target: &Origin) -> Option<Arc<dyn TraceSpan>> {
    let tracer = tracer()?;
    let mut count = 0;
    let counted = messages.into_iter().inspect(|_| count += 1);
    let parents: Vec<_> = counted
        .filter_map(|message| message.headers().get("traceparent").map(SmolStr::new))
        .collect();
    Some(tracer.batch(&parents, count, target))
}

thread_local! {
    /// Where the message comes from that the driver is about to start. What the layers are called with is the message alone.
    static ORIGIN: RefCell<Option<Arc<Origin>>> = const { RefCell::new(None) };
    /// The span of the message that is being driven, for the layers inside.
    static CURRENT: RefCell<Option<Arc<dyn TraceSpan>>> = const { RefCell::new(None) };
}

/// Tells the trace layer where the message comes from that it is called with next, if anybody wants to know.
#[inline]
pub(crate) fn coming_from(origin: impl FnOnce() -> Arc<Origin>) {
    #[cold]
    fn set(origin: Arc<Origin>) {
        ORIGIN.set(Some(origin));
    }
    if tracer().is_some() {
        set(origin());
    }
}

/// Where the message comes from that is being started; told once.
pub(crate) fn origin() -> Arc<Origin> {
    let told = ORIGIN.take();
    told.unwrap_or_else(|| Arc::new(Origin::new("dispatch", "service")))
}

/// Makes `span` the current one until the answer is dropped.
pub(crate) fn enter(span: &Arc<dyn TraceSpan>) -> Entered {
    Entered(CURRENT.replace(Some(Arc::clone(span))))
}

/// The span before, to be the current one again.
pub(crate) struct Entered(Option<Arc<dyn TraceSpan>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Tells the current span, if there is one, of an attempt that failed.
pub(crate) fn attempt_failed(attempt: &Attempt) {
    if tracer().is_some()
        && let Some(span) = CURRENT.with_borrow(Clone::clone)
    {
        span.attempt_failed(attempt);
    }
}
