//! What a component counts for itself.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use smol_str::SmolStr;

use crate::lock::lock;

/// Where a component's own counters and gauges are kept; shown on `/metrics` with the labels `pipeline` and `component`.
///
/// Asking for a name twice gives the same counter. Counting is one atomic addition.
///
/// ```
/// use dispatch_core::telemetry::Meter;
///
/// let meter = Meter::default().of("source");
/// let empty = meter.counter("dispatch_sqs_empty_receives_total", "receive calls that brought nothing");
/// empty.add(2);
/// assert_eq!((meter.read()[0].name, meter.read()[0].value), ("dispatch_sqs_empty_receives_total", 2.0));
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
}

/// Only grows. Its name ends in `_total`.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

/// One instrument, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The metric's name.
    pub name: &'static str,
    /// What it counts, for people.
    pub help: &'static str,
    /// The component's label: `source`, `sink`, …
    pub component: SmolStr,
    /// Whether it only grows.
    pub is_counter: bool,
    /// How much it is now.
    pub value: f64,
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
            Value::Gauge(_) => Counter::default(),
        }
    }

    /// The gauge of this name.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        match self.instrument(name, help, Value::Gauge(Gauge::default())) {
            Value::Gauge(gauge) => gauge,
            Value::Counter(_) => Gauge::default(),
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
            is_counter: matches!(one.value, Value::Counter(_)),
            value: match &one.value {
                Value::Counter(counter) => counter.get() as f64,
                Value::Gauge(gauge) => gauge.get() as f64,
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
