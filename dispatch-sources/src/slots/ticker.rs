//! Fires slots: into the Store's queue, each once over all processes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use dispatch_core::{
    Error, Message, Store, process_id, random_id,
    store::{Item, Reservation},
};
use smol_str::{SmolStr, format_smolstr};
use tokio::sync::oneshot;

use super::{
    Misfire, Overlap,
    plan::{self, Plan},
};

/// How long a process may take to fire a slot before another does.
const HOLD: Duration = Duration::from_secs(5);
/// How long a fired slot is remembered under its own name; `Slots` remembers the latest for ever.
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long to wait after a failure of the Store, or for another process to be done with a slot.
const AGAIN: Duration = Duration::from_secs(1);
/// How long to sleep at most before the wall clock is looked at again: it may have been set, or the machine suspended.
const LOOK: Duration = Duration::from_secs(30);

/// Where in a message's metadata its slot stands.
pub(crate) const SLOT: &str = "schedule_slot";

/// What time it is; tests have a clock of their own.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Makes the message of a slot.
pub(crate) type Make = Box<dyn Fn(SmolStr, SystemTime) -> Message + Send + Sync>;

/// Heeds what a message asks for itself.
pub(crate) type Heed = fn(&mut Item) -> Result<(), Error>;

/// Fires the slots of one schedule.
pub(crate) struct Ticker {
    pub(crate) plan: Plan,
    /// `<pipeline>:<source>`.
    pub(crate) schedule: SmolStr,
    pub(crate) queue: SmolStr,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) misfire: Misfire,
    pub(crate) overlap: Overlap,
    pub(crate) jitter: Duration,
    /// Up to where nothing was missed, whatever is remembered: a schedule that was changed begins anew.
    pub(crate) since: Option<SystemTime>,
    /// Makes the message of a slot under an id.
    pub(crate) make: Make,
    /// Where the messages are tasks.
    pub(crate) heed: Option<Heed>,
    /// How many slots this process has fired.
    pub(crate) fired: Arc<AtomicU64>,
}

impl Ticker {
    /// Fires slot after slot until `stop` is dropped; a slot that is being fired is finished first.
    pub(crate) async fn run(self, mut stop: oneshot::Receiver<()>) {
        let owner = format!("{}:{}", process_id(), random_id());
        let mut handled = None;
        loop {
            let ticked = match handled {
                None => self.begin().await,
                Some(handled) => self.tick(handled, &owner, &mut stop).await,
            };
            match ticked {
                Ok(Some(until)) => handled = Some(until),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(schedule = %self.schedule, error = error.report(), "slot not fired yet");
                    if !self.sleep(AGAIN, &mut stop).await {
                        return;
                    }
                }
            }
        }
    }

    /// Up to where slots were handled by whoever ran last. Nothing was missed by a schedule that never ran.
    async fn begin(&self) -> Result<Option<SystemTime>, Error> {
        let now = (self.clock)();
        let before = now.checked_sub(REMEMBER).unwrap_or(SystemTime::UNIX_EPOCH);
        self.store.slots().prune(before).await?;
        let last = self.store.slots().last(&self.schedule).await?.unwrap_or(now);
        Ok(Some(self.since.map_or(last, |since| last.max(since))))
    }

    /// Fires what is due and waits for the next slot; says up to where all is handled, or nothing once it shall stop.
    async fn tick(
        &self,
        handled: SystemTime,
        owner: &str,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<Option<SystemTime>, Error> {
        let (due, latest) = self.plan.due(handled, (self.clock)(), self.misfire);
        for slot in due {
            let fires_at = slot + plan::jitter(&self.schedule, slot, self.jitter);
            if !self.sleep_until(fires_at, stop).await {
                return Ok(None);
            }
            while !self.fire(slot, owner).await? {
                // Another process is at it; should it die, its hold ends soon.
                if !self.sleep(AGAIN, stop).await {
                    return Ok(None);
                }
            }
        }
        let next = self.plan.after(latest.max(handled));
        let go_on = match next {
            Some(next) => self.sleep_until(next, stop).await,
            // A pattern with no more slots has nothing to wake up for.
            None => self.sleep(Duration::MAX, stop).await,
        };
        Ok(go_on.then_some(latest))
    }

    /// Fires one slot unless somebody did; false while another process is at it.
    async fn fire(&self, slot: SystemTime, owner: &str) -> Result<bool, Error> {
        let id = format_smolstr!("{}@{}", self.schedule, plan::name(slot));
        let reservation = format!("schedule:{id}");
        match self.store.reservations().reserve(&reservation, owner, HOLD).await? {
            Reservation::Done(_) => return Ok(true),
            Reservation::InProgress(_) => return Ok(false),
            Reservation::Reserved => {}
        }
        if self.overlap == Overlap::Skip && self.is_busy().await? {
            tracing::info!(schedule = %self.schedule, %id, "slot skipped: an earlier one is not done");
        } else {
            if self.overlap == Overlap::Cancel {
                // What waits is not wanted any more; what is at work hears of it once this slot is taken.
                self.store.queue().purge(&self.queue).await?;
            }
            self.store
                .queue()
                .enqueue(&self.queue, vec![self.item(&id, slot)?])
                .await?;
            self.fired.fetch_add(1, Relaxed);
            tracing::debug!(schedule = %self.schedule, %id, "slot fired");
        }
        // From here on it has fired. What fails below makes it fire again at worst, which the id tells.
        self.store.slots().take(&self.schedule, slot).await?;
        self.store.reservations().commit(&reservation, owner, REMEMBER).await?;
        Ok(true)
    }

    async fn is_busy(&self) -> Result<bool, Error> {
        let depth = self.store.queue().depth(&self.queue).await?;
        Ok(depth.ready + depth.delayed + depth.leased > 0)
    }

    fn item(&self, id: &SmolStr, slot: SystemTime) -> Result<Item, Error> {
        let message = (self.make)(id.clone(), slot).meta(SLOT, plan::name(slot));
        let mut item = Item::of(&message);
        if let Some(heed) = self.heed {
            heed(&mut item)?;
        }
        item.dedupe.get_or_insert_with(|| id.clone());
        if self.overlap.is_one_by_one() {
            // One key, one at a time, in order.
            item.key = Some(self.schedule.clone());
        }
        Ok(item)
    }

    /// Sleeps until the wall clock shows `time`; false once it shall stop.
    async fn sleep_until(&self, time: SystemTime, stop: &mut oneshot::Receiver<()>) -> bool {
        while let Ok(left) = time.duration_since((self.clock)()) {
            if left.is_zero() {
                break;
            }
            if !self.sleep(left.min(LOOK), stop).await {
                return false;
            }
        }
        true
    }

    async fn sleep(&self, time: Duration, stop: &mut oneshot::Receiver<()>) -> bool {
        tokio::select! {
            _ = stop => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}
