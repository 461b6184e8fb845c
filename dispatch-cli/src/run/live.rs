//! The live lines on a terminal: one a pipeline, a bar where the end is known.

use std::time::Duration;

use dispatch_core::pipeline::{Phase, Status};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{
    Member,
    summary::{rounded, seconds},
};
use crate::logs::Screen;

/// How often the lines change.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// How much of the past the rate forgets with each tick.
const FORGET: f64 = 0.2;

/// The lines of one generation.
#[derive(Debug)]
pub(crate) struct Live {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    bar: ProgressBar,
    member: Member,
    bounded: bool,
    delivered: u64,
    at: Instant,
    /// The rates of the past, the older the less, and what they weigh together.
    rates: f64,
    weight: f64,
}

impl Live {
    /// Lines for these pipelines, if anybody sees them.
    pub(crate) fn new(screen: &Screen, members: &[Member]) -> Self {
        let line = |member: &Member| {
            let bar = match &screen.0 {
                Some(live) => live.add(ProgressBar::new(1)),
                None => ProgressBar::hidden(),
            };
            bar.set_style(style("{wide_msg}"));
            Line {
                bar,
                member: member.clone(),
                bounded: false,
                delivered: 0,
                at: Instant::now(),
                rates: 0.0,
                weight: 0.0,
            }
        };
        let members = if screen.0.is_some() { members } else { &[] };
        Self {
            lines: members.iter().map(line).collect(),
        }
    }

    /// Shows how it is now.
    pub(crate) fn tick(&mut self) {
        self.lines.iter_mut().for_each(Line::tick);
    }

    /// Takes the lines away.
    pub(crate) fn clear(&self) {
        self.lines.iter().for_each(|line| line.bar.finish_and_clear());
    }
}

/// A style; the plain one if the template is none.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

impl Line {
    fn tick(&mut self) {
        let status = self.member.handle.status();
        let passed = self.at.elapsed().as_secs_f64();
        if passed > 0.0 {
            let now = status.delivered.saturating_sub(self.delivered) as f64 / passed;
            self.rates = self.rates * (1.0 - FORGET) + now * FORGET;
            self.weight = self.weight * (1.0 - FORGET) + FORGET;
            (self.delivered, self.at) = (status.delivered, Instant::now());
        }
        if let Some(progress) = status.progress.filter(|progress| progress.total > 0) {
            if !std::mem::replace(&mut self.bounded, true) {
                self.bar.set_style(style("[{bar:20}] {percent:>3}%  {wide_msg}"));
            }
            self.bar.set_length(progress.total);
            self.bar.set_position(progress.done.min(progress.total));
        }
        self.bar
            .set_message(words(&status, self.rates / self.weight.max(FORGET)));
    }
}

/// How one pipeline is, on one line; what is wrong stands first, where a narrow window does not cut it off.
fn words(status: &Status, rate: f64) -> String {
    let count = |count: u64| HumanCount(count).to_string();
    let mut words = vec![status.name.to_string()];
    let ill = status.components.iter().find(|part| part.error.is_some());
    match status.phase {
        Phase::Starting => words.push("connecting".to_owned()),
        Phase::Draining => words.push("draining".to_owned()),
        Phase::Ended => words.push("done".to_owned()),
        Phase::Running if status.paused => words.push("paused".to_owned()),
        Phase::Running if !matches!(status.breaker, "closed" | "off" | "by_key") => {
            words.push(format!("breaker {}", status.breaker.replace('_', " ")));
        }
        Phase::Running => {}
    }
    words.push(format!("{}/s", rounded(rate)));
    words.push(format!("in flight {}", status.in_flight));
    words.push(format!("delivered {}", count(status.delivered)));
    words.push(format!("retried {}", count(status.retried + status.parked)));
    words.push(format!("dead {}", count(status.dead_lettered)));
    words.push(format!("lag {}", seconds(status.lag_seconds)));
    if let Some((label, error)) = ill.and_then(|part| part.error.as_ref().map(|error| (&part.label, error))) {
        words.insert(1, format!("{label}: {error}"));
    }
    words.join("  ")
}
