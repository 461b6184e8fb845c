//! What is held, given back: when a drain begins, when its time is up, when a driver is dropped.

use tower::Service;

use super::Work;
use crate::{Disposition, Error, Message, Reply};

impl<S> Work<S>
where
    S: Service<Message, Response = Reply, Error = Error>,
{
    /// Gives back what was not started.
    pub(in crate::pipeline) fn release_backlog(&mut self) {
        for slot in self.backlog.drain() {
            self.release(slot);
        }
    }

    /// Cancels what is started, and gives it back with everything else that is not settled.
    pub(in crate::pipeline) fn cancel(&mut self) {
        self.release_backlog();
        let kept_waiting = self.keep.abandon();
        let unsettled: Vec<_> = self
            .slots
            .entries()
            // What is on its way into the Store right now is settled when that comes back.
            .filter(|(slot, entry)| entry.open && (!entry.keeping || kept_waiting.contains(slot)))
            .map(|(slot, _)| slot)
            .collect();
        for slot in unsettled {
            self.slots.cancel(slot);
            self.release(slot);
        }
    }
}

impl<S: Service<Message>> Drop for Work<S> {
    /// A driver that is dropped (its future cancelled, or a panic) gives back what it holds, and tells what it knows.
    fn drop(&mut self) {
        self.shared.roll.leave(self.driver);
        for (_, entry) in self.slots.entries().filter(|(_, entry)| entry.open) {
            self.desks[entry.source()].put(0, entry.token.clone(), Disposition::Release);
        }
        // Without a runtime there is nobody to send it; leases and connections end by themselves.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        for desk in &mut self.desks {
            if let Some(parcel) = desk.take_all() {
                runtime.spawn(parcel.send());
            }
        }
    }
}
