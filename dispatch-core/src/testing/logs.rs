use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
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
