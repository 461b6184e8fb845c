//! The state machine, and a call's way through it.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smol_str::SmolStr;
use tokio::{sync::watch, time::Instant};

use super::{
    gather::{self, Gathering},
    window::{FIRST_WAIT, Window},
};
use crate::{Class, Error, Later, lock::lock};

/// When a breaker opens and how it closes again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// The share of failed calls that opens it, from 0 to 1; 0.5.
    pub failures: f64,
    /// Fewer calls than this in the window say nothing; 20.
    pub min_calls: u32,
    /// How far back calls count; 30 s.
    pub window: Duration,
    /// How long it stays open; 30 s. After an `Unavailable` it asks again sooner: after 1 s, 2 s, 4 s, … up to this.
    pub open: Duration,
    /// How many calls must succeed in a row, half open, to close it; 3.
    pub probes: u32,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 0.5,
            min_calls: 20,
            window: Duration::from_secs(30),
            open: Duration::from_secs(30),
            probes: 3,
        }
    }
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// So many more calls, as probes.
    HalfOpen(u32),
    /// Nothing before this time.
    Open(Instant),
}

/// A breaker's state, shared by its layer and whoever must stop fetching while it is open.
#[derive(Debug, Clone)]
pub struct BreakerHandle(pub(super) Arc<Shared>);

const CLOSED: u8 = 0;
const OTHER: u8 = 1;

#[derive(Debug)]
pub(super) struct Shared {
    /// Tells one half-open time from the next: a straggler of the last one is no probe of this one.
    rounds: AtomicU64,
    settings: BreakerSettings,
    /// Lets calls pass without the lock while closed.
    mode: AtomicU8,
    pub(super) window: Window,
    state: Mutex<State>,
    /// Made for who asks: of thousands of keys nobody does.
    changed: OnceLock<watch::Sender<()>>,
    /// Whose it is, if not everybody's.
    key: Option<SmolStr>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        left: u32,
        succeeded: u32,
        round: u64,
        since: Instant,
    },
}

impl BreakerHandle {
    /// A closed breaker.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Self {
        Self::of(settings, None)
    }

    /// What one takes.
    #[cfg(test)]
    pub(super) const SIZE: usize = size_of::<Shared>();

    /// That of one key.
    pub(super) fn of(settings: BreakerSettings, key: Option<SmolStr>) -> Self {
        Self(Arc::new(Shared {
            rounds: AtomicU64::new(0),
            settings,
            mode: AtomicU8::new(CLOSED),
            window: Window::new(settings.window),
            state: Mutex::new(State::Closed),
            changed: OnceLock::new(),
            key,
        }))
    }

    /// What it lets through now.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        if self.is_closed() {
            return BreakerState::Closed;
        }
        match &*lock(&self.0.state) {
            State::Closed => BreakerState::Closed,
            State::Open { until } if *until > Instant::now() => BreakerState::Open(*until),
            State::Open { .. } => BreakerState::HalfOpen(self.0.settings.probes),
            State::HalfOpen { left, .. } => BreakerState::HalfOpen(*left),
        }
    }

    /// Marked as changed whenever the state changes, except that an open breaker falls half open by the clock alone.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.get_or_init(|| watch::Sender::new(())).subscribe()
    }

    fn tell(&self) {
        if let Some(changed) = self.0.changed.get() {
            changed.send_replace(());
        }
    }

    /// Whether one made anew would do the same: nothing counts any more, and nobody has called for a whole window. What was
    /// open that long ago has been probed by nobody since.
    pub(super) fn is_idle(&self) -> bool {
        let (now, window) = (Instant::now(), self.0.settings.window);
        match &*lock(&self.0.state) {
            State::Closed => self.0.window.is_empty(now),
            State::Open { until: since } | State::HalfOpen { since, .. } => now >= *since + window,
        }
    }

    /// What a call is told that may not pass for so long. The gate waits for the breaker of all; for that of a key the message
    /// does.
    fn refused(&self, wait: Duration) -> Error {
        match self.0.key {
            None => refused(),
            Some(_) => refused().with_later(Later::After(wait)),
        }
    }

    /// Until the answer is dropped, this thread tells of successes all at once.
    pub(crate) fn gather(&self) -> Gathering<'_> {
        Gathering::of(&self.0.window)
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.0.mode.load(Relaxed) == CLOSED
    }

    /// Counts the end of a call that nobody holds a pass for. Half open, probes alone say something.
    #[inline]
    pub(in crate::layer) fn hear<R>(&self, result: &Result<R, Error>) {
        if self.is_closed() {
            self.count(None, result);
        }
    }

    fn count<R>(&self, probe: Option<u64>, result: &Result<R, Error>) {
        match result.as_ref().map_err(Error::class) {
            Ok(_) | Err(Class::Permanent) => self.succeeded(probe),
            Err(Class::Retry | Class::Unavailable) => {
                if let Err(error) = result {
                    self.failed(probe, error);
                }
            }
            Err(Class::Throttled(_)) => {
                if let Some(probe) = probe {
                    self.give_back(probe);
                }
            }
        }
    }

    /// Lets one call pass, or says why not.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Admitted, Error> {
        if self.is_closed() {
            return Ok(Admitted {
                breaker: Some(Arc::clone(self)),
                probe: None,
            });
        }
        let mut state = lock(&self.0.state);
        match &mut *state {
            State::Closed => Ok(Admitted {
                breaker: Some(Arc::clone(self)),
                probe: None,
            }),
            State::Open { until } if *until > Instant::now() => Err(self.refused(*until - Instant::now())),
            State::Open { .. } => {
                // open -> half open: time passed, and this is the first probe.
                let round = self.0.rounds.fetch_add(1, Relaxed) + 1;
                let left = self.0.settings.probes.max(1) - 1;
                *state = State::HalfOpen {
                    left,
                    succeeded: 0,
                    round,
                    since: Instant::now(),
                };
                drop(state);
                tracing::info!(key = self.0.key.as_deref(), "breaker half open");
                self.tell();
                Ok(Admitted {
                    breaker: Some(Arc::clone(self)),
                    probe: Some(round),
                })
            }
            State::HalfOpen { left: 0, .. } => Err(self.refused(FIRST_WAIT)),
            State::HalfOpen { left, round, .. } => {
                *left -= 1;
                let round = *round;
                Ok(Admitted {
                    breaker: Some(Arc::clone(self)),
                    probe: Some(round),
                })
            }
        }
    }

    fn succeeded(&self, probe: Option<u64>) {
        let Some(probe) = probe else {
            return gather::succeeded(&self.0.window);
        };
        let mut state = lock(&self.0.state);
        if let State::HalfOpen { succeeded, round, .. } = &mut *state
            && *round == probe
        {
            *succeeded += 1;
            if *succeeded >= self.0.settings.probes.max(1) {
                // half open -> closed: every probe succeeded.
                *state = State::Closed;
                self.0.window.clear();
                self.0.mode.store(CLOSED, Relaxed);
                drop(state);
                tracing::info!(key = self.0.key.as_deref(), "breaker closed");
                self.tell();
            }
        }
    }

    /// Counts a failure; what opens the breaker is told in its log line.
    pub(super) fn failed(&self, probe: Option<u64>, error: &Error) {
        let unavailable = error.class() == Class::Unavailable;
        if probe.is_some() || unavailable {
            // half open -> open: a probe failed. closed -> open: the far side is down; no need for statistics.
            self.open(probe, error);
        } else {
            gather::flush(&self.0.window);
            let (calls, failures) = self.0.window.failed(Instant::now());
            if calls >= self.0.settings.min_calls && f64::from(failures) >= self.0.settings.failures * f64::from(calls)
            {
                // closed -> open: too large a share failed.
                self.open(None, error);
            }
        }
    }

    fn open(&self, probe: Option<u64>, error: &Error) {
        let unavailable = error.class() == Class::Unavailable;
        let mut state = lock(&self.0.state);
        match &*state {
            // Calls that began before it opened may fail after; a straggler says nothing new.
            State::Open { .. } => return,
            State::HalfOpen { round, .. } if probe != Some(*round) => return,
            // A probe of a time that has passed says nothing new either.
            State::Closed if probe.is_some() => return,
            State::HalfOpen { .. } | State::Closed => {}
        }
        let wait = if unavailable {
            self.0.window.next_wait(self.0.settings.open)
        } else {
            self.0.settings.open
        };
        *state = State::Open {
            until: Instant::now() + wait,
        };
        self.0.mode.store(OTHER, Relaxed);
        drop(state);
        tracing::warn!(
            key = self.0.key.as_deref(),
            ?wait,
            unavailable,
            error = error.report(),
            "breaker open"
        );
        self.tell();
    }

    /// A probe ended without a word: somebody else may make it.
    fn give_back(&self, probe: u64) {
        if let State::HalfOpen { left, round, .. } = &mut *lock(&self.0.state)
            && *round == probe
        {
            *left += 1;
        }
        self.tell();
    }
}

pub(super) fn refused() -> Error {
    Error::unavailable(Refused).with_code("breaker")
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("breaker open: not tried")]
struct Refused;

/// One call's pass; dropped without an outcome it is given back.
#[derive(Debug)]
pub(super) struct Admitted {
    breaker: Option<Arc<BreakerHandle>>,
    /// The half-open time whose probe it is.
    probe: Option<u64>,
}

impl Admitted {
    /// The pass, if it is that of a probe.
    pub(super) fn if_probe(self) -> Option<Self> {
        self.probe.is_some().then_some(self)
    }

    /// Counts the outcome. A message that its key's breaker now stands before is told how long.
    pub(super) fn end<R>(mut self, result: Result<R, Error>) -> Result<R, Error> {
        let Some(breaker) = self.breaker.take() else {
            return result;
        };
        breaker.count(self.probe, &result);
        match result {
            Err(error) if breaker.0.key.is_some() && error.class() == Class::Unavailable && error.later().is_none() => {
                let wait = match breaker.state() {
                    BreakerState::Open(until) => until - Instant::now(),
                    BreakerState::Closed | BreakerState::HalfOpen(_) => FIRST_WAIT,
                };
                Err(error.with_later(Later::After(wait)))
            }
            result => result,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let (Some(breaker), Some(probe)) = (self.breaker.take(), self.probe) {
            breaker.give_back(probe);
        }
    }
}
