//! The battery that every Store passes: one function a statement, each failing with a sentence.
//!
//! ```
//! use std::sync::Arc;
//! use dispatch_core::{MemoryStore, testing::store::store_battery};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() {
//!     store_battery(Arc::new(MemoryStore::new())).await;
//! }
//! ```

mod dead_letters;
mod priority;
mod queue;
mod rates;
mod roles;

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Attempt, Error, Headers, Message, Store, random_id,
    store::{Claim, Claimed, Completion, Item, Lease, Outcome, Stale},
};

/// A lease that nobody waits for.
const LONG: Duration = Duration::from_secs(60);
/// A lease or delay that a statement waits for.
const SHORT: Duration = Duration::from_millis(300);
/// How long a statement waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs every statement against `store`, one after the other.
///
/// Each uses names of its own, so the store may be shared and need not be empty. With a paused clock the waits pass at
/// once where the store keeps tokio's time.
///
/// # Panics
/// At the first statement that does not hold, with a sentence that says which.
pub async fn store_battery(store: Arc<dyn Store>) {
    store.probe().await.expect("a store that works answers its probe");
    queue::battery(&*store).await;
    priority::battery(&store).await;
    dead_letters::battery(&*store).await;
    roles::battery(&*store).await;
    rates::battery(&*store).await;
}

/// Runs the statements about reservations, schedule slots, positions and rates alone, for a store that keeps nothing else.
///
/// # Panics
/// As [`store_battery`].
pub async fn part_battery(store: Arc<dyn Store>) {
    store.probe().await.expect("a store that works answers its probe");
    roles::battery(&*store).await;
    rates::battery(&*store).await;
}

/// A name that no other statement has.
fn name(what: &str) -> SmolStr {
    format_smolstr!("battery-{what}-{}", random_id())
}

fn item(payload: &str) -> Item {
    Item::of(&Message::with_id_at(
        payload,
        payload.to_owned(),
        whole_micros(SystemTime::now()),
    ))
}

/// Stores need not keep more than microseconds.
fn whole_micros(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn raw_headers() -> Headers {
    let every_byte: Vec<u8> = (0..=255).collect();
    [
        ("Content-Type", Bytes::from_static(b"application/octet-stream")),
        ("x-raw", Bytes::from(every_byte)),
        ("x-twice", Bytes::from_static(b"one")),
        ("x-twice", Bytes::from_static(b"")),
    ]
    .into_iter()
    .collect()
}

fn attempt(number: u32, error: &Error) -> Attempt {
    let at = whole_micros(SystemTime::now());
    Attempt::failed(number, at, Duration::from_millis(7), error)
}

async fn put(store: &dyn Store, queue: &str, items: Vec<Item>) {
    store
        .queue()
        .enqueue(queue, items)
        .await
        .expect("a working store takes items");
}

async fn take(store: &dyn Store, queue: &str, max: usize) -> Vec<Claimed> {
    take_under(store, queue, max, LONG, false).await
}

async fn take_ordered(store: &dyn Store, queue: &str, max: usize) -> Vec<Claimed> {
    take_under(store, queue, max, LONG, true).await
}

/// Leases as many for a moment.
async fn take_briefly(store: &dyn Store, queue: &str, max: usize) -> Vec<Claimed> {
    take_under(store, queue, max, SHORT, false).await
}

async fn take_under(store: &dyn Store, queue: &str, max: usize, lease: Duration, ordered: bool) -> Vec<Claimed> {
    let claim = Claim {
        max,
        lease,
        ordered,
        below: None,
    };
    store
        .queue()
        .claim(queue, claim)
        .await
        .expect("a working store leases items")
}

async fn settle(store: &dyn Store, queue: &str, lease: Lease, outcome: Outcome) -> Result<(), Stale> {
    let answers = store.queue().settle(queue, vec![Completion { lease, outcome }]).await;
    let answers = answers.expect("a working store settles");
    assert_eq!(answers.len(), 1, "one settlement gets one answer");
    answers[0]
}

async fn extend(store: &dyn Store, queue: &str, lease: Lease, by: Duration) -> Result<(), Stale> {
    let answers = store
        .queue()
        .extend(queue, vec![lease], by)
        .await
        .expect("a working store extends");
    assert_eq!(answers.len(), 1, "one extension gets one answer");
    answers[0]
}

fn payloads(claimed: &[Claimed]) -> Vec<String> {
    claimed
        .iter()
        .map(|claimed| String::from_utf8_lossy(&claimed.item.payload).into_owned())
        .collect()
}

/// Claims until there is something, for as long as patience lasts.
async fn take_eventually(store: &dyn Store, queue: &str, sentence: &str) -> Vec<Claimed> {
    let end = Instant::now() + PATIENCE;
    loop {
        let claimed = take(store, queue, 100).await;
        if !claimed.is_empty() {
            return claimed;
        }
        assert!(Instant::now() < end, "{sentence}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn within<T>(sentence: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{sentence}"),
    }
}

fn same<T: PartialEq + Debug>(found: T, expected: T, sentence: &str) {
    assert_eq!(found, expected, "{sentence}");
}
