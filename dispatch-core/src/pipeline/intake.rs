//! All sources of a pipeline as one: asked in turn, supervised for ever.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use smol_str::SmolStr;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::control::Shared;
use crate::{
    Backoff, Delivery, Error, Jitter, Received, Source,
    layer::{PANIC, unless_panicked},
    telemetry::{Counter, Stats, names},
};

/// Sources under their labels.
pub(super) struct Intake {
    sources: Vec<Supervised>,
    /// Who is asked first next time.
    turn: usize,
    shared: Arc<Shared>,
    backoff: Backoff,
}

struct Supervised {
    label: SmolStr,
    /// Away while it connects in a task of its own.
    source: Option<Box<dyn Source>>,
    state: State,
    /// Whether it was ever connected.
    was_connected: bool,
    /// Failures in a row.
    failures: u32,
    up_since: Instant,
    /// Whether it is the pipeline's own, and ends with the last of the others.
    background: bool,
    /// How many inputs it has given up on itself, as of its last word.
    rejected: u64,
    /// How many it has put into the Store itself.
    parked: u64,
    received: Counter,
}

impl Supervised {
    /// Counts what the source has kept itself since the last time.
    fn count_kept(&mut self, stats: &Stats) {
        let Some(source) = &self.source else { return };
        let (rejected, parked) = (source.rejected(), source.parked());
        let more_rejected = rejected.saturating_sub(std::mem::replace(&mut self.rejected, rejected));
        let more_parked = parked.saturating_sub(std::mem::replace(&mut self.parked, parked));
        if more_rejected + more_parked > 0 {
            stats.received.fetch_add(more_rejected + more_parked, Relaxed);
            stats.dead_lettered.fetch_add(more_rejected, Relaxed);
            stats.parked.fetch_add(more_parked, Relaxed);
        }
    }
}

enum State {
    /// To be connected at this time.
    Down(Instant),
    /// In a task of its own, so that what other sources bring cannot interrupt it.
    Connecting(JoinHandle<(Box<dyn Source>, Result<(), Error>)>),
    Up,
    Ended,
}

impl State {
    const fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

/// A failure after so long counts as the first.
const STEADY: Duration = Duration::from_secs(30);

/// What the sources brought.
pub(super) enum Taken {
    /// These, from the source with this number.
    Batch(usize, Vec<Delivery>),
    /// Every source but the pipeline's own has ended.
    Ended,
}

/// What one source said.
enum Word {
    Connected,
    Received(Received),
    Failed(Error),
}

impl Intake {
    /// The last of the sources is the pipeline's own: what it has parked.
    pub(super) fn new(sources: Vec<(SmolStr, Box<dyn Source>)>, shared: Arc<Shared>) -> Self {
        let last = sources.len().saturating_sub(1);
        let supervise = |(index, (label, source)): (usize, (SmolStr, Box<dyn Source>))| {
            let background = index == last;
            let now = Instant::now();
            let meter = shared.meter.of(label.clone());
            let state = if source.capabilities().connects_itself {
                State::Up
            } else {
                State::Down(now)
            };
            Supervised {
                received: meter.counter(names::SOURCE_RECEIVED, "Deliveries taken from one source"),
                label,
                source: Some(source),
                state,
                was_connected: false,
                failures: 0,
                up_since: now,
                background,
                rejected: 0,
                parked: 0,
            }
        };
        let backoff = Backoff::exponential(Duration::from_millis(100), 2.0)
            .min(Duration::from_millis(50))
            .max(Duration::from_secs(30))
            .jitter(Jitter::Equal);
        Self {
            sources: sources.into_iter().enumerate().map(supervise).collect(),
            turn: 0,
            shared,
            backoff,
        }
    }

    /// Waits for at least one delivery, at most `max`.
    ///
    /// # Cancel safety
    /// As [`Source::receive`]: dropping it loses nothing.
    pub(super) async fn receive(&mut self, max: usize) -> Taken {
        loop {
            if self.ended() {
                return Taken::Ended;
            }
            let (index, word) = first(self.turn, &mut self.sources, max).await;
            if let Some(batch) = self.heard(index, word) {
                // Whoever brought something is asked last next time.
                self.turn = (index + 1) % self.sources.len();
                return Taken::Batch(index, batch);
            }
        }
    }

    /// Whether every source but the pipeline's own has ended.
    pub(super) fn ended(&self) -> bool {
        self.sources
            .iter()
            .filter(|source| !source.background)
            .all(|source| source.state.is_ended())
    }

    /// As [`receive`](Self::receive), once the input has ended: what is parked goes on.
    pub(super) async fn receive_rest(&mut self, max: usize) -> Taken {
        loop {
            if self.sources.iter().all(|source| source.state.is_ended()) {
                return std::future::pending().await;
            }
            let (index, word) = first(0, &mut self.sources, max).await;
            if let Some(batch) = self.heard(index, word) {
                return Taken::Batch(index, batch);
            }
        }
    }

    fn heard(&mut self, index: usize, word: Word) -> Option<Vec<Delivery>> {
        let source = &mut self.sources[index];
        if let (Word::Received(_), Some(progress)) =
            (&word, source.source.as_ref().and_then(|source| source.progress()))
        {
            self.shared.progressed(&source.label, progress);
        }
        source.count_kept(&self.shared.stats);
        match word {
            Word::Connected => {
                source.state = State::Up;
                source.up_since = Instant::now();
                source.was_connected = true;
                self.shared.connected(&source.label);
                tracing::debug!(source = %source.label, "connected");
                None
            }
            Word::Received(Received::Batch(batch)) => {
                if std::mem::take(&mut source.failures) > 0 {
                    tracing::info!(source = %source.label, "source is back");
                }
                source.received.add(batch.len() as u64);
                (!batch.is_empty()).then_some(batch)
            }
            Word::Received(Received::Health(None)) => {
                self.shared.connected(&source.label);
                if std::mem::replace(&mut source.was_connected, true) {
                    tracing::info!(source = %source.label, "source is back");
                } else {
                    tracing::debug!(source = %source.label, "connected");
                }
                None
            }
            Word::Received(Received::Health(Some(error))) => {
                self.shared.stats.source_errors.fetch_add(1, Relaxed);
                self.shared.failed(&source.label, error.report());
                let what = if source.was_connected {
                    "source lost its broker"
                } else {
                    "source has no broker yet"
                };
                tracing::warn!(source = %source.label, error = error.report(), "{what}");
                None
            }
            Word::Received(Received::End) => {
                source.state = State::Ended;
                self.shared.ended(&source.label);
                tracing::debug!(source = %source.label, "input ended");
                None
            }
            Word::Failed(error) => {
                let steady = matches!(source.state, State::Up) && source.up_since.elapsed() >= STEADY;
                source.failures = if steady { 1 } else { source.failures.saturating_add(1) };
                let wait = self.backoff.delay(source.failures, Duration::ZERO, &mut rand::rng());
                source.state = State::Down(Instant::now() + wait);
                self.shared.stats.source_errors.fetch_add(1, Relaxed);
                self.shared.failed(&source.label, error.report());
                if error.code().is_some_and(|code| code == PANIC) {
                    tracing::error!(source = %source.label, error = error.report(), ?wait, failures = source.failures, "source panicked");
                } else {
                    tracing::warn!(source = %source.label, error = error.report(), ?wait, failures = source.failures, "source failed");
                }
                None
            }
        }
    }

    /// Tells every source that nothing will be asked for a while.
    pub(super) async fn hold(&mut self) {
        for source in &mut self.sources {
            if let (State::Up, Some(inner)) = (&source.state, &mut source.source)
                && let Err(error) = unless_panicked(async { inner.hold().await }).await
            {
                tracing::warn!(source = %source.label, error = error.report(), "hold failed");
            }
        }
    }

    /// Closes all sources beside each other; says whether each did.
    pub(super) async fn close(&mut self) -> bool {
        let stats = &self.shared.stats;
        let close = async |source: &mut Supervised| {
            if let State::Connecting(task) = &mut source.state {
                // A connection still being made has received nothing.
                task.abort();
            }
            let Some(inner) = &mut source.source else {
                return true;
            };
            let closed = unless_panicked(async { inner.close().await }).await;
            source.count_kept(stats);
            match closed {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(source = %source.label, error = error.report(), "close failed");
                    false
                }
            }
        };
        futures::future::join_all(self.sources.iter_mut().map(close))
            .await
            .into_iter()
            .all(|closed| closed)
    }
}

/// The first source to say something, asked in order from `turn` on.
async fn first(turn: usize, sources: &mut [Supervised], max: usize) -> (usize, Word) {
    let count = sources.len();
    let mut asked: Vec<(usize, BoxFuture<'_, Word>)> = sources
        .iter_mut()
        .enumerate()
        .filter(|(_, source)| !source.state.is_ended())
        .map(|(index, source)| (index, Box::pin(ask(source, max)) as BoxFuture<'_, Word>))
        .collect();
    asked.sort_by_key(|(index, _)| (index + count - turn) % count);
    poll_fn(|cx: &mut Context<'_>| {
        for (index, word) in &mut asked {
            if let Poll::Ready(word) = Pin::as_mut(word).poll(cx) {
                return Poll::Ready((*index, word));
            }
        }
        Poll::Pending
    })
    .await
}

async fn ask(supervised: &mut Supervised, max: usize) -> Word {
    if let State::Down(until) = supervised.state {
        sleep_until(until).await;
        if let Some(mut source) = supervised.source.take() {
            supervised.state = State::Connecting(tokio::spawn(async move {
                let result = unless_panicked(async { source.probe().await }).await;
                (source, result)
            }));
        }
    }
    if let State::Connecting(task) = &mut supervised.state {
        return match task.await {
            Ok((source, result)) => {
                supervised.source = Some(source);
                result.map_or_else(Word::Failed, |()| Word::Connected)
            }
            // Cancelled: the intake is closed or the runtime ends, so nobody waits for the answer.
            Err(_) => std::future::pending().await,
        };
    }
    match &mut supervised.source {
        None => std::future::pending().await,
        // The call is made within, too: not only what it returns may panic.
        Some(source) => match unless_panicked(async { source.receive(max).await }).await {
            Ok(received) => Word::Received(received),
            Err(error) => Word::Failed(error),
        },
    }
}
