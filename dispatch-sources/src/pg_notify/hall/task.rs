//! What the hall keeps of a task.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use dispatch_core::{
    Message, Outline, Token,
    tasks::{BarePayload, Incoming, OnDuplicate, TaskMessage, add_members, identity},
};
use smol_str::SmolStr;

/// A task in the hall: its text, where in it the names stand, and what the hall itself heeds.
#[derive(Debug, Clone)]
pub(in crate::pg_notify) struct Task {
    /// The JSON object as it came, with what the service has added. It is UTF-8.
    text: Bytes,
    name: Part,
    uuid: Part,
    pub(super) delay: Option<Duration>,
    pub(super) on_duplicate: OnDuplicate,
    outline: Option<Outline>,
    /// What the store has it leased under, if it was spilled.
    pub(super) stored: Option<Token>,
}

/// A piece of a task's text, or what stands there with escapes.
#[derive(Debug, Clone)]
enum Part {
    At { from: u32, len: u32 },
    Own(Box<str>),
}

impl Part {
    /// `part` is usually a piece of `text`.
    fn of(part: Cow<'_, str>, text: &str) -> Self {
        let place = || {
            // Both live, so what lies within the text's bytes is a piece of it.
            let from = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
            text.get(from..from.checked_add(part.len())?)?;
            let (from, len) = (u32::try_from(from).ok()?, u32::try_from(part.len()).ok()?);
            Some(Self::At { from, len })
        };
        place().unwrap_or_else(|| Self::Own(part.into()))
    }

    /// UTF-8: it was when it was found, and what was added came behind it.
    fn bytes<'t>(&'t self, text: &'t [u8]) -> &'t [u8] {
        match self {
            Self::At { from, len } => &text[*from as usize..*from as usize + *len as usize],
            Self::Own(own) => own.as_bytes(),
        }
    }

    fn read<'t>(&'t self, text: &'t [u8]) -> &'t str {
        str::from_utf8(self.bytes(text)).unwrap_or_default()
    }
}

/// Texts of tasks that come together lie beside each other in pieces of memory: one allocation for many. The first is
/// as large as its text, since most come alone; the others hold so many bytes, and more as they go on, to the second
/// number: one task that stays long keeps no more than that.
const PIECES: [usize; 2] = [4 * 1024, 32 * 1024];

/// Room for the texts of tasks that come together.
#[derive(Debug, Default)]
pub(in crate::pg_notify) struct Room {
    piece: BytesMut,
    next: usize,
}

impl Room {
    /// Writes `text` with `more` members. What will stay longer than those around it lies `apart`.
    fn write(&mut self, text: &str, more: &str, apart: bool) -> Bytes {
        let needed = text.len() + more.len();
        let mut own = BytesMut::new();
        let piece = if apart { &mut own } else { &mut self.piece };
        if piece.capacity() < needed {
            // Not `reserve`: what lies in the old piece stays there.
            *piece = BytesMut::with_capacity(if apart { needed } else { self.next.max(needed) });
            if !apart {
                self.next = (self.next * 2).clamp(PIECES[0], PIECES[1]);
            }
        }
        add_members(text, more, |part| piece.extend_from_slice(part.as_bytes()));
        piece.split().freeze()
    }
}

impl Task {
    /// Keeps `task`, whose id is `uuid`, with `more` members in its text.
    pub(in crate::pg_notify) fn keep(task: TaskMessage<'_>, uuid: Cow<'_, str>, more: &str, room: &mut Room) -> Self {
        let apart = task.delay.is_some() || task.on_duplicate != OnDuplicate::Parallel;
        Self {
            text: room.write(&task.text, more, apart),
            name: Part::of(task.task, &task.text),
            uuid: Part::of(uuid, &task.text),
            delay: task.delay,
            on_duplicate: task.on_duplicate,
            // What was added stands behind it all.
            outline: task.outline,
            stored: None,
        }
    }

    /// A task that was spilled, as it comes back from the store: what it had to wait for it has waited for there. None: somebody
    /// has put something else there.
    pub(super) fn back(text: &str, token: Token) -> Option<Self> {
        let Incoming::Task(mut task) = Incoming::read(text, BarePayload::Reject) else {
            return None;
        };
        let uuid = task.uuid.take()?;
        let mut task = Self::keep(task, uuid, "", &mut Room::default());
        (task.delay, task.stored) = (None, Some(token));
        Some(task)
    }

    pub(in crate::pg_notify) fn text(&self) -> &str {
        str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Under which key the store has it, if it asks about its like.
    pub(super) fn identity(&self) -> Option<SmolStr> {
        let asks = self.on_duplicate != OnDuplicate::Parallel;
        asks.then(|| identity(self.text()).ok()).flatten()
    }

    /// `module.function`.
    pub(in crate::pg_notify) fn name(&self) -> &str {
        self.name.read(&self.text)
    }

    pub(in crate::pg_notify) fn uuid(&self) -> &str {
        self.uuid.read(&self.text)
    }
}

/// Messages of the tasks that came last, one for each name: those of one name share what is known about them.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    recent: Vec<(Box<str>, Message)>,
    /// Which one goes when another comes.
    oldest: usize,
}

/// So many names are looked through.
const RECENT: usize = 16;

impl Patterns {
    /// As the rest of the pipeline knows a task. It shares the text; `now` is its time of creation.
    pub(super) fn message(&mut self, task: &Task, now: SystemTime) -> Message {
        let name = task.name.bytes(&task.text);
        let known = self.recent.iter().position(|(known, _)| known.as_bytes() == name);
        let at = known.unwrap_or_else(|| {
            let name = task.name();
            let pattern = (name.into(), Message::new(Bytes::new()).meta("task", name));
            if self.recent.len() < RECENT {
                self.recent.push(pattern);
                return self.recent.len() - 1;
            }
            self.oldest = (self.oldest + 1) % RECENT;
            self.recent[self.oldest] = pattern;
            self.oldest
        });
        let has_id = task.outline.is_some_and(|outline| outline.has_id());
        let id = (!has_id).then(|| task.uuid().into());
        self.recent[at].1.alike(id, task.text.clone(), now, task.outline)
    }
}
