//! An SQS in memory, with faults to order; for the tests of whoever speaks to SQS.
//!
//! It speaks the JSON protocol over HTTP on loopback ([`Fake::serve`]), or answers the SDK in the process, where a
//! paused clock pauses it too ([`Fake::http_client`]). Standard and FIFO queues, long polls, visibility, delays,
//! deduplication, dead-letter queues and their redrive behave as Amazon documents them; a receive always brings what is
//! there. What no server can be told to do is ordered with [`Fake::fail`] and [`Fake::script`], time is moved with
//! [`Fake::advance`], and a lease is taken away with [`Fake::expire`].
//!
//! ```
//! use dispatch_sources::sqs::fake::{Fake, QueueOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let fake = Fake::new();
//! fake.create_queue("orders", QueueOptions::default());
//! fake.send("orders", "hello");
//! let server = fake.serve().await;
//! assert_eq!((server.url().starts_with("http://127.0.0.1:"), fake.visible("orders")), (true, 1));
//! # }
//! ```

mod api;
mod faults;
mod in_process;
mod queue;
mod server;
mod tasks;
mod wire;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Notify, time::Instant};

pub use faults::{Call, Fault};
pub use queue::{FakeMessage, QueueOptions};
pub use server::FakeServer;

use faults::Faults;
use queue::Queue;
use tasks::MoveTask;

/// An SQS in memory; clones are the same one.
#[derive(Debug, Clone)]
pub struct Fake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    faults: Faults,
    /// When this was made, on both clocks.
    began: (Instant, SystemTime),
    /// Rung when time was moved.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    queues: HashMap<String, Queue>,
    tasks: Vec<MoveTask>,
    requests: BTreeMap<String, u64>,
    /// How far the clock was moved by hand.
    ahead: Duration,
    serial: u64,
}

/// The account that queues belong to.
const ACCOUNT: &str = "000000000000";
const REGION: &str = "us-east-1";

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// One without queues.
    #[must_use]
    pub fn new() -> Self {
        Self::behind(Duration::ZERO)
    }

    /// One whose time stamps lie so far in the past.
    #[must_use]
    pub fn behind(by: Duration) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            faults: Faults::default(),
            began: (Instant::now(), SystemTime::now() - by),
            moved: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time here.
    fn now(&self, state: &State) -> Instant {
        Instant::now() + state.ahead
    }

    fn epoch_millis(&self, at: Instant) -> u128 {
        let wall = self.0.began.1 + at.saturating_duration_since(self.0.began.0);
        wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
    }

    /// Makes a queue; FIFO if its name ends with `.fifo`. One that exists stays as it is.
    pub fn create_queue(&self, name: &str, options: QueueOptions) {
        self.state()
            .queues
            .entry(name.to_owned())
            .or_insert_with(|| Queue::new(name, options));
    }

    /// Takes a queue away with all that is in it.
    pub fn delete_queue(&self, name: &str) {
        self.state().queues.remove(name);
        self.0.moved.notify_waiters();
    }

    /// The URL that queues of this name have; the host is of no importance to the SDK.
    #[must_use]
    pub fn queue_url(&self, name: &str) -> String {
        format!("https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}")
    }

    /// Puts a message in; its id.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn send(&self, queue: &str, body: impl Into<String>) -> String {
        self.send_message(queue, FakeMessage::new(body))
    }

    /// Puts a message in with all that belongs to it; its id.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn send_message(&self, queue: &str, message: FakeMessage) -> String {
        let mut state = self.state();
        let now = self.now(&state);
        state.serial += 1;
        let serial = state.serial;
        let queue = state.queues.get_mut(queue).expect("the queue exists");
        let id = queue.send(message, serial, now).0;
        queue.changed.notify_waiters();
        id
    }

    /// Moves the clock on: visibilities, delays and long polls end as if so much time had passed.
    pub fn advance(&self, by: Duration) {
        self.state().ahead += by;
        self.0.moved.notify_waiters();
    }

    /// Ends the visibility of a message that is out, so that its next receive makes the present handle a stale one.
    /// Says whether there was one.
    pub fn expire(&self, queue: &str, id: &str) -> bool {
        let mut state = self.state();
        let now = self.now(&state);
        let Some(queue) = state.queues.get_mut(queue) else {
            return false;
        };
        let expired = queue.expire(id, now);
        queue.changed.notify_waiters();
        expired
    }

    fn count(&self, queue: &str, count: impl FnOnce(&Queue) -> usize) -> usize {
        let mut state = self.state();
        let now = self.now(&state);
        state.queues.get_mut(queue).map_or(0, |queue| {
            queue.tick(now);
            count(queue)
        })
    }

    /// How many messages could be received now.
    #[must_use]
    pub fn visible(&self, queue: &str) -> usize {
        self.count(queue, Queue::visible)
    }

    /// How many messages are out or delayed.
    #[must_use]
    pub fn hidden(&self, queue: &str) -> usize {
        self.count(queue, Queue::hidden)
    }

    /// How many messages are out: received, and neither deleted nor visible again.
    #[must_use]
    pub fn in_flight(&self, queue: &str) -> usize {
        self.count(queue, Queue::in_flight)
    }

    /// The most messages that were ever out at once.
    #[must_use]
    pub fn most_in_flight(&self, queue: &str) -> usize {
        self.count(queue, |queue| queue.most_in_flight)
    }

    /// So many more messages are out with other consumers. From 120 000 on nothing is handed out: a short poll of a
    /// standard queue is answered with `OverLimit`, any other brings nothing.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn out_with_others(&self, queue: &str, count: usize) {
        let mut state = self.state();
        let queue = state.queues.get_mut(queue).expect("the queue exists");
        queue.with_others = count;
        queue.changed.notify_waiters();
    }

    /// How many receives wait for a message.
    #[must_use]
    pub fn waiting(&self, queue: &str) -> usize {
        // Each holds what it is woken by, and so does the queue.
        self.count(queue, |queue| Arc::strong_count(&queue.changed) - 1)
    }

    /// How many messages were deleted.
    #[must_use]
    pub fn deleted(&self, queue: &str) -> usize {
        self.count(queue, |queue| queue.deleted)
    }

    /// The bodies that wait in a queue, in the order they would come.
    #[must_use]
    pub fn bodies(&self, queue: &str) -> Vec<String> {
        let state = self.state();
        state.queues.get(queue).map(Queue::bodies).unwrap_or_default()
    }

    /// What waits in a queue, in the order it would come.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<FakeMessage> {
        let state = self.state();
        state.queues.get(queue).map(Queue::messages).unwrap_or_default()
    }

    /// How many requests of an operation came, such as `ReceiveMessage`.
    #[must_use]
    pub fn requests(&self, operation: &str) -> u64 {
        self.state().requests.get(operation).copied().unwrap_or_default()
    }

    /// The next `times` requests of an operation fail so; `*` is every operation.
    pub fn fail(&self, operation: &str, times: usize, fault: Fault) {
        self.0.faults.order(operation, times, fault);
    }

    /// Takes back what [`fail`](Self::fail) has ordered and was not used.
    pub fn pardon(&self) {
        self.0.faults.pardon();
    }

    /// Asks `script` about each request before it is answered, after what [`fail`](Self::fail) has ordered.
    pub fn script(&self, script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.0.faults.script(Box::new(script));
    }

    /// Answers errors without the header `x-amzn-query-error`, as some emulators do.
    pub fn omit_query_errors(&self, omit: bool) {
        self.0.faults.omit_query_errors(omit);
    }
}
