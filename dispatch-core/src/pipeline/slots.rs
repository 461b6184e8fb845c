//! The messages being worked on, each polled in place, without a task or an allocation of its own.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::{ArcWake, AtomicWaker, waker_ref};

use crate::lock::lock;

/// Numbered places that are used again: a future and an entry each.
pub(super) struct Slots<F, E> {
    slots: Vec<Slot<F, E>>,
    free: Vec<u32>,
    ready: Arc<ReadyList>,
    /// Taken out of the ready list, to be polled one by one.
    turn: Vec<u32>,
    /// Room for futures, used again: as much as ever ran at once.
    spare: Vec<Room<F>>,
    running: usize,
}

/// Room for one future, which stays where it is while futures come and go.
type Room<F> = Pin<Box<Option<F>>>;

struct Slot<F, E> {
    future: Option<Room<F>>,
    wake: Arc<SlotWake>,
    entry: Option<E>,
}

/// Which slots want to be polled, and who polls them.
struct ReadyList {
    slots: Mutex<Vec<u32>>,
    driver: AtomicWaker,
}

struct SlotWake {
    index: u32,
    listed: AtomicBool,
    ready: Arc<ReadyList>,
}

impl Wake for ReadyList {
    fn wake(self: Arc<Self>) {
        self.driver.wake();
    }
}

impl ArcWake for SlotWake {
    fn wake_by_ref(wake: &Arc<Self>) {
        if !wake.listed.swap(true, Ordering::AcqRel) {
            lock(&wake.ready.slots).push(wake.index);
            wake.ready.driver.wake();
        }
    }
}

impl<F: Future, E> Slots<F, E> {
    /// Room for `expected` entries, not touched before it is needed.
    pub(super) fn with_capacity(expected: usize) -> Self {
        let ready = ReadyList {
            slots: Mutex::default(),
            driver: AtomicWaker::new(),
        };
        Self {
            slots: Vec::with_capacity(expected),
            free: Vec::new(),
            ready: Arc::new(ready),
            turn: Vec::new(),
            spare: Vec::new(),
            running: 0,
        }
    }

    /// What wakes whoever polls these.
    pub(super) fn bell(&self) -> Waker {
        Waker::from(Arc::clone(&self.ready))
    }

    /// The entries that have a future.
    pub(super) fn at_work(&self) -> impl Iterator<Item = &E> {
        self.slots
            .iter()
            .filter(|slot| slot.future.is_some())
            .filter_map(|slot| slot.entry.as_ref())
    }

    /// The numbers of the entries that have a future, in their order.
    pub(super) fn started(&self) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, slot)| slot.future.is_some()).map(|(index, _)| index)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts an entry in; its future comes with [`start`](Self::start).
    pub(super) fn insert(&mut self, entry: E) -> usize {
        if let Some(index) = self.free.pop().map(|index| index as usize) {
            self.slots[index].entry = Some(entry);
            return index;
        }
        let index = self.slots.len();
        let wake = Arc::new(SlotWake {
            index: u32::try_from(index).expect("a window is smaller than that"),
            listed: AtomicBool::new(false),
            ready: Arc::clone(&self.ready),
        });
        self.slots.push(Slot {
            future: None,
            wake,
            entry: Some(entry),
        });
        index
    }

    /// Takes an entry out, its future with it.
    pub(super) fn remove(&mut self, index: usize) -> Option<E> {
        let entry = self.slots[index].entry.take()?;
        self.cancel(index);
        self.free.push(self.slots[index].wake.index);
        Some(entry)
    }

    pub(super) fn entry(&mut self, index: usize) -> Option<&mut E> {
        self.slots.get_mut(index)?.entry.as_mut()
    }

    /// All entries with their numbers.
    pub(super) fn entries(&mut self) -> impl Iterator<Item = (usize, &mut E)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(|(index, slot)| Some((index, slot.entry.as_mut()?)))
    }

    /// Makes the entry's future in its room and polls it once.
    #[inline(always)]
    pub(super) fn start(&mut self, index: usize, future: F) -> Poll<F::Output> {
        self.cancel(index);
        let mut room = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        room.set(Some(future));
        self.slots[index].future = Some(room);
        self.running += 1;
        self.poll_slot(index)
    }

    /// How many entries have a future.
    pub(super) const fn running(&self) -> usize {
        self.running
    }

    /// Drops the entry's future and keeps the entry; says whether it had one.
    pub(super) fn cancel(&mut self, index: usize) -> bool {
        let Some(mut room) = self.slots[index].future.take() else {
            return false;
        };
        room.set(None);
        self.spare.push(room);
        self.running -= 1;
        true
    }

    /// Polls woken futures until one ends. Takes up to `rounds` lists of them: a future that wakes itself, as all do
    /// once their task's budget is spent, must not keep everything else from its turn.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>, rounds: &mut u8) -> Poll<(usize, F::Output)> {
        loop {
            if self.turn.is_empty() {
                self.ready.driver.register(cx.waker());
                let mut woken = lock(&self.ready.slots);
                if woken.is_empty() {
                    return Poll::Pending;
                }
                if *rounds == 0 {
                    drop(woken);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                *rounds -= 1;
                std::mem::swap(&mut *woken, &mut self.turn);
            }
            while let Some(index) = self.turn.pop().map(|index| index as usize) {
                if let Poll::Ready(output) = self.poll_slot(index) {
                    return Poll::Ready((index, output));
                }
            }
        }
    }

    #[inline(always)]
    fn poll_slot(&mut self, index: usize) -> Poll<F::Output> {
        let slot = &mut self.slots[index];
        // Before the poll: a wake during it must list the slot again.
        slot.wake.listed.store(false, Ordering::Release);
        let Some(future) = slot.future.as_mut().and_then(|room| room.as_mut().as_pin_mut()) else {
            return Poll::Pending;
        };
        // Borrowed: a slot need not keep a waker, nor count one up and down.
        let poll = future.poll(&mut Context::from_waker(&waker_ref(&slot.wake)));
        if poll.is_ready() {
            self.cancel(index);
        }
        poll
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn only_woken_futures_are_polled_and_places_are_used_again() {
        let mut slots = Slots::<oneshot::Receiver<u32>, &str>::with_capacity(2);
        let (send_a, receive_a) = oneshot::channel();
        let (_send_b, receive_b) = oneshot::channel();
        let (a, b) = (slots.insert("a"), slots.insert("b"));
        assert!(slots.start(a, receive_a).is_pending() && slots.start(b, receive_b).is_pending());

        send_a.send(7).unwrap();
        let (index, output) = poll_fn(|cx| slots.poll_next(cx, &mut 1)).await;

        assert_eq!((index, output), (a, Ok(7)));
        assert_eq!((slots.remove(a), slots.len(), slots.insert("c")), (Some("a"), 1, a));
    }
}
