//! What the drivers hold, asked for by commands: messages that were received and are not at work.

use std::{collections::BTreeSet, sync::Mutex};

use tokio::sync::mpsc::UnboundedSender;

use crate::{
    Message,
    lock::lock,
    tasks::{Filter, Listed, Shown},
};

/// What is asked of each driver, once.
pub(super) struct Visit {
    pub(super) wanted: Wanted,
    /// The drivers that have answered.
    answered: Mutex<BTreeSet<u64>>,
    answers: UnboundedSender<(u64, Held)>,
}

/// Which messages, and what is to become of them.
pub(super) struct Wanted {
    pick: Box<dyn Fn(&Message) -> bool + Send + Sync>,
    pub(super) take: Take,
}

/// What is taken out for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    Nothing,
    /// What waits for its turn, or rests at the head of its lane.
    Waiting,
    /// What the sink was given.
    Out,
}

/// What one driver holds of the messages that are wanted.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Waits for its turn.
    pub(super) waiting: Vec<Message>,
    /// Rests between two attempts, at the head of its lane.
    pub(super) resting: Vec<Message>,
    /// Was given to the sink.
    pub(super) out: Vec<Message>,
}

impl Held {
    /// Adds what another driver holds.
    pub(super) fn add(&mut self, other: Self) {
        self.waiting.extend(other.waiting);
        self.resting.extend(other.resting);
        self.out.extend(other.out);
    }
}

impl Visit {
    pub(super) fn new(wanted: Wanted, answers: UnboundedSender<(u64, Held)>) -> Self {
        Self {
            wanted,
            answered: Mutex::default(),
            answers,
        }
    }

    /// Whether this driver has not answered yet; from now on it has.
    pub(super) fn begins(&self, driver: u64) -> bool {
        lock(&self.answered).insert(driver)
    }

    pub(super) fn answer(&self, driver: u64, held: Held) {
        // Who has gone has a timeout.
        drop(self.answers.send((driver, held)));
    }
}

impl Wanted {
    pub(super) fn picks(&self, message: &Message) -> bool {
        (self.pick)(message)
    }

    /// Those that `data` is about, but for those whose id is among `but`.
    pub(super) fn read(data: String, but: BTreeSet<String>, take: Take) -> Self {
        let pick = move |message: &Message| {
            let shown = Shown::of(&message.payload, message.id(), None);
            !but.contains(&shown.uuid)
                && Filter::read(&data).picks(&shown.task, &shown.uuid, || shown.text.as_str().into())
        };
        Self {
            pick: Box::new(pick),
            take,
        }
    }
}

impl Held {
    pub(super) fn listed(self) -> Listed {
        let texts = |messages: Vec<Message>| -> Vec<String> {
            let text = |message: &Message| Shown::of(&message.payload, message.id(), None).text;
            messages.iter().map(text).collect()
        };
        Listed {
            queued: texts(self.waiting),
            delayed: texts(self.resting),
            out: texts(self.out),
            ..Listed::default()
        }
    }
}
