//! What is received and not at work, told of and taken out by command.

use tower::Service;

use super::Work;
use crate::{
    Disposition, Error, Message, Reply,
    pipeline::visit::{Held, Take, Visit},
};

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// Answers those who ask.
    pub(super) fn visited(&mut self) {
        for visit in self.shared.roll.visits() {
            if visit.begins(self.driver) {
                let held = self.held(&visit);
                visit.answer(self.driver, held);
            }
        }
    }

    fn held(&mut self, visit: &Visit) -> Held {
        let mut found = [const { Vec::new() }; 3];
        let [waiting, resting, at_sink] = &mut found;
        let mut taken = Vec::new();
        let desks = &self.desks;
        let out: Vec<_> = self.slots.started().collect();
        for (slot, entry) in self.slots.entries() {
            if !entry.open || entry.keeping || !visit.wanted.picks(&entry.message) {
                continue;
            }
            let (place, kind) = if out.binary_search(&slot).is_ok() {
                (&mut *at_sink, Take::Out)
            } else if entry.rests_until().is_some() {
                (&mut *resting, Take::Waiting)
            } else {
                (&mut *waiting, Take::Waiting)
            };
            // Somebody waits for the answer: that is no task.
            let is_taken = visit.wanted.take == kind && !desks[entry.source()].capabilities.wants_reply;
            if is_taken {
                taken.push(slot);
            }
            if is_taken || visit.wanted.take == Take::Nothing {
                place.push((entry.serial, entry.message.clone()));
            }
        }
        if !taken.is_empty() {
            self.backlog.take_out(|slot| taken.binary_search(slot).is_ok());
        }
        for slot in taken {
            self.slots.cancel(slot);
            if let Some(entry) = self.slots.entry(slot) {
                entry.aside = None;
            }
            // Gone for good, as from the place where it waits otherwise.
            self.settle(slot, Disposition::Ack(Reply::default()));
        }
        // As they came.
        let [waiting, resting, out] = found.map(|mut found: Vec<(u32, Message)>| {
            found.sort_by_key(|(serial, _)| *serial);
            found.into_iter().map(|(_, message)| message).collect()
        });
        Held { waiting, resting, out }
    }
}
