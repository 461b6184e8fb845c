use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, Interest},
};

use crate::lock::lock;

/// What this thread logs, each line as `LEVEL message field=value`.
///
/// ```
/// use dispatch_core::testing::Logs;
///
/// let (logs, _guard) = Logs::gather();
/// tracing::warn!(queue = "q", "nothing came");
/// assert_eq!(logs.count("WARN", "nothing came queue=\"q\""), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<String>>>);

impl Logs {
    /// Gathers until the guard is dropped.
    #[must_use]
    pub fn gather() -> (Self, DefaultGuard) {
        let logs = Self::default();
        QUIET.call_once(|| {
            // Where there is another already, that one has been asked about every place.
            drop(tracing::subscriber::set_global_default(Quiet));
        });
        let guard = tracing::subscriber::set_default(logs.clone());
        (logs, guard)
    }

    /// How many lines of this level hold `part`.
    #[must_use]
    pub fn count(&self, level: &str, part: &str) -> usize {
        let lines = lock(&self.0);
        lines
            .iter()
            .filter(|line| line.starts_with(level) && line.contains(part))
            .count()
    }
}

/// What every other thread logs to: nothing, but it is asked each time. A place in the program that was first reached by a
/// thread without a subscriber would count as one that nobody wants to hear of.
struct Quiet;

static QUIET: Once = Once::new();

impl Subscriber for Quiet {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // To write into text cannot fail.
        let _written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

impl Subscriber for Logs {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        lock(&self.0).push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
