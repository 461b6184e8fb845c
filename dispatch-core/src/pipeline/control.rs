//! Steering a running pipeline, and seeing how it is.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use serde::Serialize;
use smol_str::SmolStr;
use tokio::sync::watch;

use super::roll::{InProgress, Roll};
use crate::{
    Commands,
    layer::{BreakerHandle, BreakerState},
    lock::lock,
    source::Progress,
    telemetry::{Meter, Stats},
};

/// What people and signals want of a pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) paused: bool,
    /// How many health checks say that the far side is not well.
    pub(super) ill: usize,
    pub(super) stop: Stop,
}

/// How far a pipeline is to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    #[default]
    No,
    /// Finish what is started.
    Drain,
    /// Cancel and release what is started.
    Now,
}

/// Steers one pipeline from outside; cheap to clone, works from any thread.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) Arc<Shared>);

/// What a pipeline shares with those who watch it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: SmolStr,
    pub(super) wanted: watch::Sender<Wanted>,
    pub(super) stats: Arc<Stats>,
    pub(super) meter: Meter,
    pub(super) commands: Commands,
    pub(super) breaker: Option<BreakerHandle>,
    /// Whether each key has one of its own.
    keyed_breaker: bool,
    pub(super) started_at: SystemTime,
    pub(super) concurrency: usize,
    pub(super) roll: Roll,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    components: Vec<ComponentStatus>,
    /// How far each bounded source has come, under its label.
    progress: Vec<(SmolStr, Progress)>,
    /// Why the sink cannot go on, once it has said so.
    gone: Option<String>,
}

/// Where in its life a pipeline is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not every component has connected yet.
    #[default]
    Starting,
    /// At work.
    Running,
    /// Finishing what was started.
    Draining,
    /// Over.
    Ended,
}

/// How one component is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    /// `source`, `source.jobs`, `store`, …
    pub label: SmolStr,
    /// Whether its last call succeeded.
    pub connected: bool,
    /// What went wrong last, while it is not connected.
    pub error: Option<String>,
    /// Whether it has nothing more to give.
    pub ended: bool,
}

/// How a pipeline is at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub name: SmolStr,
    /// Where in its life it is.
    pub phase: Phase,
    /// Whether an operator has paused it.
    pub paused: bool,
    /// Whether it can do its work: running, and every component connected.
    pub ready: bool,
    /// `closed`, `half_open`, `open` or `off`; `by_key` where each key has one of its own.
    pub breaker: &'static str,
    /// Deliveries received and not yet settled.
    pub in_flight: i64,
    /// Deliveries taken from sources since the start.
    pub received: u64,
    /// Messages that the sink took.
    pub delivered: u64,
    /// Attempts made again within the stack.
    pub retried: u64,
    /// Messages put into the Store for a later attempt.
    pub parked: u64,
    /// Messages given up on and kept.
    pub dead_lettered: u64,
    /// From creation to receipt, for the latest receipt, in seconds.
    pub lag_seconds: f64,
    /// How far its bounded sources have come together, where they know.
    pub progress: Option<Progress>,
    /// Since it was put together, in seconds.
    pub uptime_seconds: u64,
    /// How each component is.
    pub components: Vec<ComponentStatus>,
}

impl Shared {
    pub(super) fn new(
        name: SmolStr,
        stats: Arc<Stats>,
        meter: Meter,
        commands: Commands,
        breaker: Option<BreakerHandle>,
        keyed_breaker: bool,
        concurrency: usize,
    ) -> Self {
        Self {
            name,
            wanted: watch::Sender::new(Wanted::default()),
            stats,
            meter,
            commands,
            breaker,
            keyed_breaker,
            started_at: SystemTime::now(),
            concurrency,
            roll: Roll::default(),
            state: Mutex::default(),
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        let mut state = lock(&self.state);
        if state.phase != phase {
            state.phase = phase;
            drop(state);
            tracing::info!(pipeline = %self.name, ?phase, "phase");
        }
    }

    pub(super) fn add_component(&self, label: SmolStr) {
        lock(&self.state).components.push(ComponentStatus {
            label,
            connected: false,
            error: None,
            ended: false,
        });
    }

    fn component(&self, label: &str, change: impl FnOnce(&mut ComponentStatus)) {
        if let Some(component) = lock(&self.state)
            .components
            .iter_mut()
            .find(|component| component.label == label)
        {
            change(component);
        }
    }

    pub(super) fn connected(&self, label: &str) {
        self.component(label, |component| (component.connected, component.error) = (true, None));
    }

    pub(super) fn failed(&self, label: &str, error: String) {
        self.component(label, |component| {
            (component.connected, component.error) = (false, Some(error))
        });
    }

    /// The sink is gone for good: every driver drains.
    pub(super) fn sink_is_gone(&self, why: String) {
        let first = {
            let gone = &mut lock(&self.state).gone;
            let first = gone.is_none();
            gone.get_or_insert_with(|| why.clone());
            first
        };
        if first {
            tracing::error!(pipeline = %self.name, error = why, "sink is gone: draining, what it did not take is given back");
            self.wanted
                .send_modify(|wanted| wanted.stop = wanted.stop.max(Stop::Drain));
        }
    }

    /// Why the sink cannot go on.
    pub(super) fn gone(&self) -> Option<String> {
        lock(&self.state).gone.clone()
    }

    pub(super) fn progressed(&self, label: &SmolStr, progress: Progress) {
        let all = &mut lock(&self.state).progress;
        match all.iter_mut().find(|(own, _)| own == label) {
            Some((_, own)) => *own = progress,
            None => all.push((label.clone(), progress)),
        }
    }

    pub(super) fn ended(&self, label: &str) {
        self.component(label, |component| component.ended = true);
    }
}

impl Handle {
    /// The pipeline's name.
    #[must_use]
    pub fn name(&self) -> &SmolStr {
        &self.0.name
    }

    /// Stops receiving; what is started goes on.
    pub fn pause(&self) {
        self.0.wanted.send_modify(|wanted| wanted.paused = true);
    }

    /// Receives again.
    pub fn resume(&self) {
        self.0.wanted.send_modify(|wanted| wanted.paused = false);
    }

    /// Stops receiving, finishes what is started, and ends.
    pub fn drain(&self) {
        self.stop(Stop::Drain);
    }

    /// Cancels and releases what is started, and ends.
    pub fn stop_now(&self) {
        self.stop(Stop::Now);
    }

    fn stop(&self, stop: Stop) {
        self.0.wanted.send_modify(|wanted| wanted.stop = wanted.stop.max(stop));
    }

    /// How many messages may be at the sink at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.0.concurrency
    }

    /// What the sink is working on now, the oldest first. The drivers are asked, and do nothing for it until then; one
    /// that does not answer within a second is left out.
    pub async fn in_progress(&self) -> Vec<InProgress> {
        self.0.roll.call().await.all
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    /// What the components count for themselves.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// What the components answer.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.0.commands
    }

    /// How the pipeline is now.
    #[must_use]
    pub fn status(&self) -> Status {
        let stats = &self.0.stats;
        let wanted = *self.0.wanted.borrow();
        let (phase, components, progress) = {
            let state = lock(&self.0.state);
            let progress = state.progress.iter().map(|(_, one)| *one);
            let progress = progress.reduce(|a, b| Progress {
                done: a.done + b.done,
                total: a.total + b.total,
            });
            (state.phase, state.components.clone(), progress)
        };
        let breaker = match self.0.breaker.as_ref().map(BreakerHandle::state) {
            None if self.0.keyed_breaker => "by_key",
            None => "off",
            Some(BreakerState::Closed) => "closed",
            Some(BreakerState::HalfOpen(_)) => "half_open",
            Some(BreakerState::Open(_)) => "open",
        };
        Status {
            name: self.0.name.clone(),
            phase,
            paused: wanted.paused,
            ready: phase == Phase::Running && wanted.stop == Stop::No && components.iter().all(|part| part.connected),
            breaker,
            in_flight: stats.in_flight.load(Relaxed),
            received: stats.received.load(Relaxed),
            delivered: stats.delivered.load(Relaxed),
            retried: stats.retried.load(Relaxed),
            parked: stats.parked.load(Relaxed),
            dead_lettered: stats.dead_lettered.load(Relaxed),
            lag_seconds: stats.queue_lag_millis.load(Relaxed) as f64 / 1_000.0,
            progress,
            uptime_seconds: self.0.started_at.elapsed().unwrap_or_default().as_secs(),
            components,
        }
    }
}
