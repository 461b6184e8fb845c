//! What messages could not take along.

use std::{collections::HashSet, sync::Mutex};

use smol_str::SmolStr;

use super::Counter;
use crate::lock::lock;

/// So many names are warned of; names may come from outside.
const NAMES: usize = 100;

/// Counts the headers or attributes that a component could not send along, and warns of each name once: what is lost on
/// every message should be seen, and not fill the log.
///
/// ```
/// use dispatch_core::telemetry::{LeftOut, Measured, Meter};
///
/// let meter = Meter::default().of("sink");
/// let left_out = LeftOut::new(meter.counter("dispatch_example_left_out_total", "headers left out"));
/// left_out.note("no header", "its name is no HTTP header's");
/// assert!(matches!(meter.read()[0].measured, Measured::Counter(1)));
/// ```
#[derive(Debug, Default)]
pub struct LeftOut {
    counter: Counter,
    told: Mutex<HashSet<SmolStr>>,
}

impl LeftOut {
    /// Counts in `counter`.
    #[must_use]
    pub fn new(counter: Counter) -> Self {
        Self {
            counter,
            told: Mutex::default(),
        }
    }

    /// `name` was left out of a message, for this reason. Never its value, which may be a secret.
    pub fn note(&self, name: &str, why: &str) {
        self.counter.add(1);
        let mut told = lock(&self.told);
        if told.contains(name) || told.len() >= NAMES {
            drop(told);
            tracing::debug!(name, why, "left out");
            return;
        }
        told.insert(name.into());
        let all = told.len() == NAMES;
        drop(told);
        tracing::warn!(name, why, "left out of what is sent; said once for each name");
        if all {
            tracing::warn!(names = NAMES, "what else is left out is said at debug only");
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::Logs;

    #[test]
    fn each_name_is_warned_of_once_and_all_are_counted() {
        let (logs, _guard) = Logs::gather();
        let counter = Counter::default();
        let left_out = LeftOut::new(counter.clone());

        for _ in 0..3 {
            left_out.note("a", "why");
        }
        for n in 0..2 * NAMES {
            left_out.note(&n.to_string(), "why");
        }

        assert_eq!(counter.get(), 3 + 2 * NAMES as u64);
        assert_eq!(logs.count("WARN", "left out of what is sent"), NAMES);
        assert_eq!(logs.count("WARN", "name=\"a\""), 1);
        assert_eq!(logs.count("WARN", "said at debug only"), 1);
    }
}
