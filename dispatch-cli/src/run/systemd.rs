//! What a service manager is told, where one listens.

use std::time::Duration;

use sd_notify::NotifyState;

use super::Board;

/// The service manager's ear, or nothing.
#[derive(Debug)]
pub(crate) struct Systemd {
    listens: bool,
    /// How often it wants to hear of us.
    watchdog: Option<Duration>,
    /// Whether it has been told of the present readiness.
    told: bool,
    status: String,
}

impl Systemd {
    pub(crate) fn new() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            listens,
            watchdog: sd_notify::watchdog_enabled().filter(|_| listens),
            told: false,
            status: String::new(),
        }
    }

    /// How often [`tick`](Self::tick) must be called; never, where nobody listens.
    pub(crate) fn interval(&self) -> Option<Duration> {
        let second = Duration::from_millis(500);
        let half = self.watchdog.map(|watchdog| watchdog / 2);
        self.listens.then(|| half.map_or(second, |half| half.min(second)))
    }

    /// Says that we live, how it goes, and once everything is connected, that we are ready.
    pub(crate) fn tick(&mut self, board: &Board) {
        if !self.listens {
            return;
        }
        if self.watchdog.is_some() {
            self.say(&[NotifyState::Watchdog]);
        }
        if !self.told && board.ready() {
            self.told = true;
            self.say(&[NotifyState::Ready]);
        }
        let (mut in_flight, mut delivered, mut dead) = (0, 0, 0);
        for member in board.members().iter() {
            let status = member.handle.status();
            in_flight += status.in_flight;
            delivered += status.delivered;
            dead += status.dead_lettered;
        }
        let status = format!("delivered {delivered}, in flight {in_flight}, dead-lettered {dead}");
        if status != self.status {
            self.say(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Says that the files are being read again; the next readiness ends that.
    pub(crate) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(_) => self.say(&[NotifyState::Reloading]),
        }
        self.told = false;
    }

    /// Says that we end.
    pub(crate) fn stopping(&mut self) {
        self.told = true;
        self.say(&[NotifyState::Stopping]);
    }

    fn say(&self, words: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(words)
        {
            tracing::debug!(%error, "service manager was not told");
        }
    }
}
