//! What a component counts for itself.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use smol_str::SmolStr;

use super::Sizes;
use crate::lock::lock;

/// Where a component's own counters, gauges and sizes are kept; shown on `/metrics` with the labels `pipeline` and `component`.
///
/// Asking for a name twice gives the same counter. Counting is one atomic addition.
///
/// ```
/// use dispatch_core::telemetry::{Measured, Meter};
///
/// let meter = Meter::default().of("source");
/// let empty = meter.counter("dispatch_sqs_empty_receives_total", "receive calls that brought nothing");
/// empty.add(2);
/// let reading = &meter.read()[0];
/// assert_eq!(reading.name, "dispatch_sqs_empty_receives_total");
/// assert!(matches!(reading.measured, Measured::Counter(2)));
/// ```
#[derive(Clone, Default)]
pub struct Meter {
    instruments: Arc<Mutex<Vec<Instrument>>>,
    component: SmolStr,
}

struct Instrument {
    name: &'static str,
    help: &'static str,
    component: SmolStr,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Counter(Counter),
    Gauge(Gauge),
    Sizes(Sizes),
}

/// Only grows. Its name ends in `_total`.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// One instrument, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The metric's name.
    pub name: &'static str,
    /// What it counts, for people.
    pub help: &'static str,
    /// The component's label: `source`, `sink`, …
    pub component: SmolStr,
    /// How much it is now.
    pub measured: Measured,
}

/// What an instrument says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measured {
    /// How many there were; only grows.
    Counter(u64),
    /// How much there is.
    Gauge(i64),
    /// How large things were.
    Sizes {
        /// How many there were in each bucket, with the largest size of each; the last one has none.
        buckets: Vec<(Option<u64>, u64)>,
        /// All sizes together.
        sum: u64,
    },
}

impl Meter {
    /// The same meter, for the component of this label.
    #[must_use]
    pub fn of(&self, component: impl Into<SmolStr>) -> Self {
        Self {
            instruments: Arc::clone(&self.instruments),
            component: component.into(),
        }
    }

    /// The counter of this name.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        match self.instrument(name, help, Value::Counter(Counter::default())) {
            Value::Counter(counter) => counter,
            Value::Gauge(_) | Value::Sizes(_) => Counter::default(),
        }
    }

    /// The gauge of this name.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        match self.instrument(name, help, Value::Gauge(Gauge::default())) {
            Value::Gauge(gauge) => gauge,
            Value::Counter(_) | Value::Sizes(_) => Gauge::default(),
        }
    }

    /// The sizes of this name, in buckets up to each of `bounds`, which rise, and one for what is larger.
    #[must_use]
    pub fn sizes(&self, name: &'static str, help: &'static str, bounds: &'static [u64]) -> Sizes {
        match self.instrument(name, help, Value::Sizes(Sizes::new(bounds))) {
            Value::Sizes(sizes) => sizes,
            Value::Counter(_) | Value::Gauge(_) => Sizes::new(bounds),
        }
    }

    fn instrument(&self, name: &'static str, help: &'static str, new: Value) -> Value {
        let mut instruments = lock(&self.instruments);
        let known = instruments
            .iter()
            .find(|known| known.name == name && known.component == self.component);
        if let Some(known) = known {
            return known.value.clone();
        }
        instruments.push(Instrument {
            name,
            help,
            component: self.component.clone(),
            value: new.clone(),
        });
        new
    }

    /// All instruments of all components, in the order of their names.
    #[must_use]
    pub fn read(&self) -> Vec<Reading> {
        let read = |one: &Instrument| Reading {
            name: one.name,
            help: one.help,
            component: one.component.clone(),
            measured: match &one.value {
                Value::Counter(counter) => Measured::Counter(counter.get()),
                Value::Gauge(gauge) => Measured::Gauge(gauge.get()),
                Value::Sizes(sizes) => Measured::Sizes {
                    buckets: sizes.buckets(),
                    sum: sizes.sum(),
                },
            },
        };
        let mut readings: Vec<_> = lock(&self.instruments).iter().map(read).collect();
        readings.sort_by_key(|reading| reading.name);
        readings
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter")
            .field("component", &self.component)
            .finish_non_exhaustive()
    }
}

impl Counter {
    /// Counts `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// Changes it by `change`.
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change, Relaxed);
    }

    /// How much it is.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}
