//! The parts of a service that run beside the pipeline: each is kept at work, whatever becomes of it.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dispatch_core::telemetry::{Counter, Meter};
use futures::FutureExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::service::Service;

/// How each part is.
pub(super) struct Parts {
    all: Mutex<BTreeMap<String, Part>>,
    /// The part without which none counts as well, if any.
    first: Option<&'static str>,
    health: watch::Sender<Health>,
    panics: Counter,
}

/// None: nothing can be said yet. Otherwise whether all are well.
type Health = Option<Result<(), String>>;

#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    /// Why it does not run, while it is to run again.
    pub(super) ill: Option<String>,
    /// Whether it has done all that it had to do.
    pub(super) is_done: bool,
}

impl Parts {
    pub(super) fn new(first: Option<&'static str>, meter: &Meter) -> Self {
        Self {
            first,
            all: Mutex::default(),
            health: watch::Sender::new(None),
            panics: meter.counter(
                "dispatch_pg_notify_panics_total",
                "panics of the source, each of which ended one message or had one part begin again",
            ),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Part>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them by name.
    pub(super) fn list(&self) -> Vec<(String, Part)> {
        let all = self.all();
        all.iter().map(|(name, part)| (name.clone(), part.clone())).collect()
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn set(&self, name: &str, part: Part) {
        let mut all = self.all();
        all.insert(name.to_owned(), part);
        let now = match all.values().find_map(|part| part.ill.clone()) {
            Some(ill) => Some(Err(ill)),
            None if self.first.is_none_or(|first| all.contains_key(first)) => Some(Ok(())),
            None => return,
        };
        self.health.send_if_modified(|health| {
            let changes = *health != now;
            *health = now;
            changes
        });
    }

    pub(super) fn is_well(&self, name: &str) {
        self.set(name, Part::default());
    }

    pub(super) fn is_ill(&self, name: &str, why: String) {
        let ill = Some(why);
        self.set(name, Part { ill, is_done: false });
    }

    fn is_done(&self, name: &str) {
        let is_done = true;
        self.set(name, Part { ill: None, is_done });
    }

    /// Does what `what` says; a panic of it is logged and counted, and ends nothing else.
    ///
    /// # Errors
    /// It panicked: what it said.
    pub(super) async fn caught<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, String> {
        let ended = AssertUnwindSafe(work).catch_unwind().await;
        ended.map_err(|panic| self.told(what, &*panic))
    }

    /// As [`caught`](Self::caught), of what waits for nothing.
    pub(super) fn caught_now<T>(&self, what: &str, work: impl FnOnce() -> T) -> Result<T, String> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| self.told(what, &*panic))
    }

    fn told(&self, what: &str, panic: &(dyn Any + Send)) -> String {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = format!("{what} panicked: {}", said.unwrap_or("(no text)"));
        self.panics.add(1);
        tracing::error!(panic = text, "a panic was caught");
        text
    }
}

/// Keeps a part at work until it has ended by itself: one that panics begins again, after a wait that grows.
pub(super) async fn keep<F: Future<Output = ()>>(service: Arc<Service>, name: String, part: impl Fn() -> F) {
    let mut failures = 0;
    loop {
        service.parts.is_well(&name);
        let began = Instant::now();
        let Err(why) = service.parts.caught(&name, part()).await else {
            return service.parts.is_done(&name);
        };
        service.parts.is_ill(&name, why);
        // What ran for so long is not what panics at once.
        failures = if began.elapsed() > service.config.reconnect.max.0 {
            1
        } else {
            failures + 1
        };
        let wait = service.backoff.delay(failures, Duration::ZERO, &mut rand::rng());
        sleep(wait).await;
    }
}
