//! Looks now and then whether a message has been in work for too long, and says so.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;
use tokio::time::sleep;

use super::{control::Shared, roll::InProgress};

/// So long in work is too long, unless told otherwise.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(600);

/// How often the drivers are asked while there is something in flight: a quarter of what is too long, within these.
const EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Warns of each message that was started so long ago and is not done, once, its waits for a rate or a place included; and of drivers
/// that do not turn. For ever.
pub(super) async fn watch(shared: Arc<Shared>, after: Duration) {
    let [least, most] = EVERY;
    let every = (after / 4).clamp(least, most);
    let (mut told, mut blocked) = (HashSet::new(), false);
    loop {
        sleep(every).await;
        let mut stuck = Vec::new();
        // With nothing in flight nobody is woken.
        if shared.stats.in_flight.load(Relaxed) > 0 {
            let called = shared.roll.call().await;
            if called.silent > 0 && !blocked {
                tracing::warn!(
                    pipeline = %shared.name,
                    drivers = called.silent,
                    "a driver does not turn: a sink or a layer blocks its thread; give such work to a thread of its own"
                );
            }
            blocked = called.silent > 0;
            stuck = called.all;
            stuck.retain(|one| age(one) >= after);
        }
        told = told_of(&shared, &stuck, &told);
        shared.stats.stuck.store(stuck.len() as u64, Relaxed);
    }
}

/// Tells of those that nobody was told of before; what comes back are all that were.
fn told_of(shared: &Shared, stuck: &[InProgress], before: &HashSet<SmolStr>) -> HashSet<SmolStr> {
    let tell = |one: &InProgress| {
        let id = one.message.id();
        if !before.contains(id) {
            let seconds = age(one).as_secs();
            tracing::warn!(pipeline = %shared.name, %id, attempt = one.message.attempt, seconds, "message is started and not done");
        }
        id.clone()
    };
    stuck.iter().map(tell).collect()
}

fn age(one: &InProgress) -> Duration {
    SystemTime::now().duration_since(one.started_at).unwrap_or_default()
}
