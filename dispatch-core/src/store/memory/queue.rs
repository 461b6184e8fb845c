use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use smol_str::SmolStr;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{MemoryStore, State, dead_letters::Letters};
use crate::{
    Error, clock,
    store::{
        Claim, Claimed, Completion, Depth, Enqueued, Item, Lease, Look, Outcome, Page, Place, Queue, Stale, Waiting,
    },
};

/// Later than anything that is waited for.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// Where places are measured from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds from the start.
fn measure(at: Instant) -> i64 {
    let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    match at.checked_duration_since(*START) {
        Some(after) => nanos(after),
        None => -nanos(START.duration_since(at)),
    }
}

/// The time that [`measure`] was given.
fn instant(at: i64) -> Instant {
    let span = Duration::from_nanos(at.unsigned_abs());
    let time = if at < 0 {
        START.checked_sub(span)
    } else {
        START.checked_add(span)
    };
    time.unwrap_or(*START)
}

/// One queue.
#[derive(Debug, Default)]
pub(super) struct Line {
    last_row: u64,
    last_fence: u64,
    items: HashMap<u64, Kept>,
    /// Every unleased item, in the order of claims.
    waiting: BTreeSet<(Reverse<i16>, Instant, u64)>,
    /// Every leased item, by the end of its lease.
    leased: BTreeSet<(Instant, u64)>,
    /// The rows under each key, leased or not; the first goes first.
    keys: HashMap<SmolStr, BTreeSet<u64>>,
    /// Which unleased item has each dedupe key.
    dedupe: HashMap<SmolStr, u64>,
    /// How the last claim asked, so that `changed` knows what counts as claimable.
    ordered: bool,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Kept {
    item: Item,
    /// When it may be claimed, or when its lease ends.
    at: Instant,
    /// Its place among those that wait, which a lease that comes to nothing leaves it.
    due: Instant,
    /// The running lease.
    fence: Option<u64>,
}

impl Line {
    pub(super) fn enqueue(&mut self, items: Vec<Item>) -> Vec<Enqueued> {
        // One pair of clock readings a batch, so that equal times stay equal.
        let now = (SystemTime::now(), Instant::now());
        let answers = items.into_iter().map(|item| self.add(item, now)).collect();
        self.changed.notify_waiters();
        answers
    }

    fn add(&mut self, item: Item, (wall, run): (SystemTime, Instant)) -> Enqueued {
        if item.dedupe.as_ref().is_some_and(|key| self.dedupe.contains_key(key)) {
            return Enqueued::Duplicate;
        }
        if item.alone && item.key.as_ref().is_some_and(|key| self.keys.contains_key(key)) {
            return Enqueued::Duplicate;
        }
        self.last_row += 1;
        if let Some(key) = &item.key {
            self.keys.entry(key.clone()).or_default().insert(self.last_row);
        }
        let at = item.run_at.map_or(run, |at| match at.duration_since(wall) {
            Ok(ahead) => run + ahead.min(FAR),
            Err(past) => run.checked_sub(past.duration()).unwrap_or(run),
        });
        self.wait(self.last_row, item, at);
        Enqueued::New
    }

    /// Makes an item claimable from `at` on.
    fn wait(&mut self, row: u64, mut item: Item, at: Instant) {
        item.alone = false;
        // An item that comes back gives its dedupe key up if another has taken it meanwhile.
        if let Some(key) = item.dedupe.take_if(|key| self.dedupe.contains_key(key)) {
            tracing::debug!(%key, "dedupe key taken while the item was leased");
        }
        if let Some(key) = &item.dedupe {
            self.dedupe.insert(key.clone(), row);
        }
        self.waiting.insert((Reverse(item.priority), at, row));
        let kept = Kept {
            item,
            at,
            due: at,
            fence: None,
        };
        self.items.insert(row, kept);
    }

    /// Ends the lease of `row` and takes the item out, with its place, if `fence` still holds it.
    fn take(&mut self, lease: Lease) -> Option<(Item, Instant)> {
        let kept = self.items.remove(&lease.row)?;
        if kept.fence != Some(lease.fence) {
            self.items.insert(lease.row, kept);
            return None;
        }
        self.leased.remove(&(kept.at, lease.row));
        Some((kept.item, kept.due))
    }

    fn forget_key(&mut self, row: u64, item: &Item) {
        if let Some(key) = &item.key
            && let Some(rows) = self.keys.get_mut(key)
        {
            rows.remove(&row);
            if rows.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, row)) = self.leased.first().copied().filter(|(until, _)| *until <= now) {
            self.leased.remove(&(until, row));
            if let Some(kept) = self.items.remove(&row) {
                self.wait(row, kept.item, kept.due);
            }
        }
    }

    /// The rows that a claim would get now.
    fn pick(&self, claim: &Claim, now: Instant) -> Vec<(Reverse<i16>, Instant, u64)> {
        let mut picked = Vec::new();
        let behind = |priority| Bound::Excluded((priority, now + FAR, u64::MAX));
        let mut from = claim.below.map_or(Bound::Unbounded, |below| behind(Reverse(below)));
        while picked.len() < claim.max {
            let Some(&place) = self.waiting.range((from, Bound::Unbounded)).next() else {
                break;
            };
            let (priority, at, row) = place;
            // Behind one that is not yet due, only a lower priority can be.
            let due = at <= now;
            from = if due { Bound::Excluded(place) } else { behind(priority) };
            if due && !(claim.ordered && self.is_follower(row)) {
                picked.push(place);
            }
        }
        picked
    }

    fn is_follower(&self, row: u64) -> bool {
        let key = self.items.get(&row).and_then(|kept| kept.item.key.as_ref());
        key.is_some_and(|key| self.keys.get(key).and_then(BTreeSet::first) != Some(&row))
    }

    fn claim(&mut self, claim: Claim, now: Instant) -> Vec<Claimed> {
        self.expire(now);
        self.ordered = claim.ordered;
        let mut claimed = Vec::new();
        for place in self.pick(&claim, now) {
            self.waiting.remove(&place);
            let row = place.2;
            self.last_fence += 1;
            let Some(kept) = self.items.get_mut(&row) else { continue };
            kept.at = now + claim.lease;
            kept.fence = Some(self.last_fence);
            self.leased.insert((kept.at, row));
            if let Some(key) = &kept.item.dedupe {
                self.dedupe.remove(key);
            }
            let lease = Lease {
                row,
                fence: self.last_fence,
            };
            let item = kept.item.clone();
            claimed.push(Claimed { lease, item });
        }
        claimed
    }

    fn settle(&mut self, completion: Completion, letters: &mut Letters) -> Result<(), Stale> {
        let row = completion.lease.row;
        let (mut item, due) = self.take(completion.lease).ok_or(Stale)?;
        match completion.outcome {
            Outcome::Done => self.forget_key(row, &item),
            Outcome::Bury(letter) => {
                self.forget_key(row, &item);
                letters.bury(Arc::unwrap_or_clone(letter));
            }
            Outcome::Release => self.wait(row, item, due),
            Outcome::Retry { delay, attempts } => {
                item.remember(attempts);
                let at = Instant::now() + delay.min(FAR);
                item.run_at = Some(clock::system_time_at(at));
                self.wait(row, item, at);
            }
        }
        Ok(())
    }

    fn extend(&mut self, lease: Lease, until: Instant) -> Result<(), Stale> {
        let kept = self.items.get_mut(&lease.row).ok_or(Stale)?;
        if kept.fence != Some(lease.fence) {
            return Err(Stale);
        }
        self.leased.remove(&(kept.at, lease.row));
        kept.at = until;
        self.leased.insert((until, lease.row));
        Ok(())
    }

    fn depth(&self, now: Instant) -> Depth {
        let mut depth = Depth::default();
        for kept in self.items.values() {
            match (kept.at <= now, kept.fence) {
                (false, Some(_)) => depth.leased += 1,
                (false, None) => depth.delayed += 1,
                (true, _) => {
                    depth.ready += 1;
                    let created = kept.item.created_at;
                    depth.oldest = Some(depth.oldest.map_or(created, |oldest| oldest.min(created)));
                }
            }
        }
        depth
    }

    fn waiting(&mut self, look: &Look, now: Instant) -> Page {
        self.expire(now);
        let from = match look.after {
            None => Bound::Unbounded,
            Some(Place { priority, at, row }) => Bound::Excluded((Reverse(priority), instant(at), row)),
        };
        let mut places = self.waiting.range((from, Bound::Unbounded));
        let mut page = Page::default();
        let mut last = None;
        for &(Reverse(priority), at, row) in places.by_ref().take(look.max) {
            let place = Place {
                priority,
                at: measure(at),
                row,
            };
            last = Some(place);
            let Some(kept) = self.items.get(&row).filter(|kept| look.shows(&kept.item)) else {
                continue;
            };
            page.items.push(Waiting {
                place,
                due: at <= now,
                behind: self.is_follower(row),
                item: kept.item.clone(),
            });
        }
        page.next = last.filter(|_| places.next().is_some());
        page
    }

    /// Takes an unleased item out.
    fn withdraw(&mut self, Place { priority, at, row }: Place) -> Option<u64> {
        if !self.waiting.remove(&(Reverse(priority), instant(at), row)) {
            return None;
        }
        let item = self.items.remove(&row)?.item;
        self.forget_key(row, &item);
        if let Some(key) = &item.dedupe {
            self.dedupe.remove(key);
        }
        Some(row)
    }

    /// Whether something can be claimed now, else when time alone will next change that.
    fn next_change(&self, now: Instant) -> Result<(), Option<Instant>> {
        let lease_end = self.leased.first().map(|(until, _)| *until);
        let any = Claim {
            max: 1,
            lease: Duration::ZERO,
            ordered: self.ordered,
            below: None,
        };
        if lease_end.is_some_and(|end| end <= now) || !self.pick(&any, now).is_empty() {
            return Ok(());
        }
        let due = self.waiting.iter().map(|(_, at, _)| *at).filter(|at| *at > now).min();
        Err(due.into_iter().chain(lease_end).min())
    }
}

#[async_trait]
impl Queue for MemoryStore {
    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Enqueued>, Error> {
        Ok(self.state().line(queue).enqueue(items))
    }

    async fn claim(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        Ok(self.state().line(queue).claim(claim, Instant::now()))
    }

    async fn settle(&self, queue: &str, batch: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error> {
        let mut state = self.state();
        let State { lines, letters, .. } = &mut *state;
        let line = lines.entry(queue.into()).or_default();
        let answers = batch
            .into_iter()
            .map(|completion| line.settle(completion, letters))
            .collect();
        line.changed.notify_waiters();
        Ok(answers)
    }

    async fn extend(&self, queue: &str, leases: Vec<Lease>, by: Duration) -> Result<Vec<Result<(), Stale>>, Error> {
        let until = Instant::now() + by;
        let mut state = self.state();
        let line = state.line(queue);
        Ok(leases.into_iter().map(|lease| line.extend(lease, until)).collect())
    }

    async fn depth(&self, queue: &str) -> Result<Depth, Error> {
        Ok(self.state().line(queue).depth(Instant::now()))
    }

    async fn keys(&self, queue: &str) -> Result<Vec<(SmolStr, u64)>, Error> {
        let mut state = self.state();
        let keys = &state.line(queue).keys;
        Ok(keys
            .iter()
            .map(|(key, rows)| (key.clone(), rows.len() as u64))
            .collect())
    }

    async fn waiting(&self, queue: &str, look: Look) -> Result<Page, Error> {
        Ok(self.state().line(queue).waiting(&look, Instant::now()))
    }

    async fn withdraw(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error> {
        let mut state = self.state();
        let line = state.line(queue);
        let rows = places.iter().filter_map(|place| line.withdraw(*place)).collect();
        // Those behind them may go.
        line.changed.notify_waiters();
        Ok(rows)
    }

    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        let mut state = self.state();
        let line = state.line(queue);
        line.expire(Instant::now());
        let waiting = std::mem::take(&mut line.waiting);
        for (_, _, row) in &waiting {
            if let Some(kept) = line.items.remove(row) {
                line.forget_key(*row, &kept.item);
            }
        }
        line.dedupe.clear();
        Ok(waiting.len() as u64)
    }

    async fn changed(&self, queue: &str) {
        let changed = Arc::clone(&self.state().line(queue).changed);
        loop {
            let mut hint = std::pin::pin!(changed.notified());
            // Listening before looking: what comes in between is not missed.
            hint.as_mut().enable();
            let next = self.state().line(queue).next_change(Instant::now());
            match next {
                Ok(()) => return,
                Err(None) => hint.await,
                Err(Some(at)) => tokio::select! {
                    () = hint => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}
