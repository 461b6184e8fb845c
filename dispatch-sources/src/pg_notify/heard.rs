//! What one origin has said, one message after the other, on its way into the hall.

use std::sync::Arc;

use dispatch_core::tasks::{BarePayload, Incoming};

use super::{
    hall::{Room, Task},
    service::{Origin, Service},
};

/// Tasks that have been read and are not in the hall yet; commands do not wait for them.
#[derive(Debug)]
pub(super) struct Heard {
    origin: Origin,
    /// What is added to each task's text for its origin.
    from: String,
    room: Room,
    tasks: Vec<Task>,
}

impl Heard {
    pub(super) fn of(origin: Origin) -> Self {
        Self {
            from: origin.member(),
            origin,
            room: Room::default(),
            tasks: Vec::new(),
        }
    }

    /// What is read from here on came by this channel.
    pub(super) fn by_channel(&mut self, channel: &str) {
        if !matches!(&self.origin, Origin::Channel(same) if **same == *channel) {
            self.origin = Origin::Channel(channel.into());
            self.from = self.origin.member();
        }
    }

    /// Reads one message: a task is kept, a command is answered beside everything else. One that cannot be read ends nothing
    /// but itself, and be it by a panic.
    pub(super) fn read(&mut self, service: &Arc<Service>, text: &str) {
        let read = service.parts.caught_now("a message", || self.read_one(service, text));
        if read.is_err() {
            service.rejected.add(1);
        }
    }

    fn read_one(&mut self, service: &Arc<Service>, text: &str) {
        let whole;
        let mut incoming = Incoming::read(text, service.config.bare_payload);
        if let Incoming::Chunk(chunk) = incoming {
            let mut assembly = service.assembly();
            assembly.expire();
            let before = assembly.counts.errored_assemblies;
            let whole_text = assembly.take(chunk);
            // Messages that had to give way.
            service.rejected.add(assembly.counts.errored_assemblies - before);
            let Some(text) = whole_text else { return };
            whole = text;
            incoming = Incoming::read(&whole, BarePayload::Reject);
            assembly.assembled(!matches!(incoming, Incoming::Rejected(_)));
        }
        match incoming {
            Incoming::Task(task) => self.tasks.push(service.keep(task, &self.from, &mut self.room)),
            Incoming::Control(command) => service.steer(self.origin.clone(), command),
            // Listeners ask themselves on channels of their own.
            Incoming::SelfCheck(_) => self.refuse(service, "a self-check, here where nobody checks himself"),
            Incoming::Chunk(_) => self.refuse(service, "a piece within a piece"),
            Incoming::Rejected(why) => {
                if why.0.starts_with("a piece") {
                    let mut assembly = service.assembly();
                    assembly.counts.total_chunks_received += 1;
                    assembly.counts.errored_assemblies += 1;
                }
                self.refuse(service, &why.0);
            }
        }
    }

    fn refuse(&self, service: &Service, why: &str) {
        tracing::error!(origin = ?self.origin, error = %why, "message refused");
        service.rejected.add(1);
    }

    /// Puts the tasks into the hall.
    pub(super) async fn admit(&mut self, service: &Service) {
        self.room = Room::default();
        if !self.tasks.is_empty() {
            service.hall.admit(self.tasks.drain(..)).await;
        }
    }
}
