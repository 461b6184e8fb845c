//! Many waits of one length on one timer.

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::{clock, lock::lock};

/// Waits that all last equally long, and so end in the order they begin: one list, and one timer that looks at its head
/// when it goes off. A wait that ends early, as most do, costs no timer, and one that goes on costs 40 bytes.
pub(super) struct Alarms {
    limit: Duration,
    list: Mutex<List>,
}

/// No place: the end of a chain.
const NOWHERE: u32 = u32::MAX;

struct List {
    places: Vec<Place>,
    /// Places that nobody uses, chained by `next`.
    free: u32,
    head: u32,
    tail: u32,
    timer: Option<AbortHandle>,
}

struct Place {
    due: Instant,
    /// None once it has gone off.
    waker: Option<Waker>,
    before: u32,
    next: u32,
}

impl Alarms {
    pub(super) const fn new(limit: Duration) -> Self {
        Self {
            limit,
            list: Mutex::new(List {
                places: Vec::new(),
                free: NOWHERE,
                head: NOWHERE,
                tail: NOWHERE,
                timer: None,
            }),
        }
    }

    /// A wait that begins when it is first polled.
    pub(super) fn alarm(self: &Arc<Self>) -> Alarm {
        Alarm {
            alarms: Arc::clone(self),
            place: NOWHERE,
        }
    }
}

/// Wakes who is due, then sleeps until the next one may be; ends when nobody waits.
async fn run(alarms: Weak<Alarms>) {
    loop {
        let Some(strong) = alarms.upgrade() else { return };
        let (due, wakers) = {
            let mut list = lock(&strong.list);
            let wakers = list.go_off(Instant::now());
            let due = list.places.get(list.head as usize).map(|place| place.due);
            if due.is_none() {
                // Under the lock: whoever comes now sees that the timer is gone.
                list.timer = None;
            }
            (due, wakers)
        };
        drop(strong);
        wakers.into_iter().for_each(Waker::wake);
        let Some(due) = due else { return };
        sleep_until(due).await;
    }
}

impl List {
    fn append(&mut self, due: Instant, waker: Waker) -> u32 {
        let (before, next) = (self.tail, NOWHERE);
        let place = Place {
            due,
            waker: Some(waker),
            before,
            next,
        };
        let at = if self.free == NOWHERE {
            self.places.push(place);
            u32::try_from(self.places.len() - 1).unwrap_or(NOWHERE)
        } else {
            let at = self.free;
            self.free = self.places[at as usize].next;
            self.places[at as usize] = place;
            at
        };
        match self.places.get_mut(before as usize) {
            Some(before) => before.next = at,
            None => self.head = at,
        }
        self.tail = at;
        at
    }

    /// Takes a place out of the list; it stays its owner's.
    fn unlink(&mut self, at: u32) {
        let Place { before, next, .. } = self.places[at as usize];
        match self.places.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => self.head = next,
        }
        match self.places.get_mut(next as usize) {
            Some(next) => next.before = before,
            None => self.tail = before,
        }
    }

    fn go_off(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(place) = self.places.get_mut(self.head as usize).filter(|place| place.due <= now) {
            wakers.extend(place.waker.take());
            self.unlink(self.head);
        }
        wakers
    }
}

/// One wait; dropped, it ends.
pub(super) struct Alarm {
    alarms: Arc<Alarms>,
    place: u32,
}

impl Alarm {
    /// Ready once the wait is over.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut list = lock(&self.alarms.list);
        if self.place == NOWHERE {
            self.place = list.append(clock::recent().instant + self.alarms.limit, cx.waker().clone());
            // A runtime that ended took its timer with it.
            if list.timer.as_ref().is_none_or(AbortHandle::is_finished) {
                list.timer = Some(tokio::spawn(run(Arc::downgrade(&self.alarms))).abort_handle());
            }
            return Poll::Pending;
        }
        match &mut list.places[self.place as usize].waker {
            None => Poll::Ready(()),
            Some(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.alarms.limit
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.place == NOWHERE {
            return;
        }
        let mut list = lock(&self.alarms.list);
        if list.places[self.place as usize].waker.take().is_some() {
            list.unlink(self.place);
        }
        list.places[self.place as usize].next = list.free;
        list.free = self.place;
    }
}

impl Drop for Alarms {
    fn drop(&mut self) {
        if let Some(timer) = &lock(&self.list).timer {
            timer.abort();
        }
    }
}

impl fmt::Debug for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarms")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn wait(alarms: Arc<Alarms>) -> Duration {
        let began = Instant::now();
        let mut alarm = alarms.alarm();
        poll_fn(|cx| alarm.poll(cx)).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_lasts_its_time_whatever_becomes_of_the_others() {
        let alarms = Arc::new(Alarms::new(LIMIT));
        let mut waits = Vec::new();
        for number in 0..6 {
            waits.push(tokio::spawn(wait(Arc::clone(&alarms))));
            if number == 2 {
                // The head, one from the middle: neither may take the others with it.
                tokio::time::sleep(Duration::from_secs(1)).await;
                waits[0].abort();
                waits[1].abort();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }

        let mut lasted = Vec::new();
        for wait in waits {
            lasted.push(wait.await.ok());
        }

        assert_eq!(lasted[..2], [None, None]);
        assert_eq!(lasted[2..], [Some(LIMIT); 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_used_again_and_the_timer_ends_with_the_last_wait() {
        let alarms = Arc::new(Alarms::new(LIMIT));

        for _ in 0..3 {
            let lasted = futures::future::join_all((0..4).map(|_| wait(Arc::clone(&alarms)))).await;
            assert_eq!(lasted, [LIMIT; 4]);
            tokio::task::yield_now().await;

            assert!(lock(&alarms.list).timer.is_none());
        }

        assert_eq!(lock(&alarms.list).places.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_runs_on_once_the_alarms_are_gone() {
        let alarms = Arc::new(Alarms::new(LIMIT));
        let mut alarm = alarms.alarm();
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
        let timer = lock(&alarms.list).timer.clone();

        drop((alarm, alarms));
        tokio::task::yield_now().await;

        assert!(timer.is_some_and(|timer| timer.is_finished()));
    }
}
