//! What goes wrong, and when.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// A way in which a request fails.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// This HTTP status with nothing that explains it.
    Status(u16),
    /// An error of the service, by its code, such as `OverLimit`.
    Error {
        /// The code.
        code: String,
        /// The HTTP status: 400 for most.
        status: u16,
    },
    /// `RequestThrottled`, with `x-amz-retry-after` if it says for how long.
    Throttled(Option<Duration>),
    /// No answer, ever; the connection stays.
    Stall,
    /// No answer for so long, and then the right one.
    Slow(Duration),
    /// The request is done, and the connection ends before the answer.
    LostAnswer,
    /// The connection ends before anything is done.
    Reset,
    /// The right answer, but for the MD5 of each body.
    WrongMd5,
    /// Of a batch, the entries with these numbers fail; the others are done.
    Entries {
        /// Which of them, from 0.
        which: Vec<usize>,
        /// The code.
        code: String,
        /// Whether it is the sender's fault, and trying again is of no use.
        sender_fault: bool,
    },
}

impl Fault {
    /// An error of the service with the status 400.
    pub fn error(code: impl Into<String>) -> Self {
        Self::Error {
            code: code.into(),
            status: 400,
        }
    }

    /// Entries of a batch that fail by the server's own fault.
    pub fn entries(which: impl IntoIterator<Item = usize>) -> Self {
        Self::Entries {
            which: which.into_iter().collect(),
            code: "InternalError".to_owned(),
            sender_fault: false,
        }
    }
}

/// A request that is about to be answered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call {
    /// The operation, such as `ReceiveMessage`.
    pub operation: String,
    /// Which request of this operation it is, from 1.
    pub number: u64,
}

type Script = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

#[derive(Default)]
pub(super) struct Faults {
    ordered: Mutex<VecDeque<(String, usize, Fault)>>,
    script: Mutex<Option<Script>>,
    omit_query_errors: AtomicBool,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    pub(super) fn order(&self, operation: &str, times: usize, fault: Fault) {
        if times > 0 {
            lock(&self.ordered).push_back((operation.to_owned(), times, fault));
        }
    }

    pub(super) fn pardon(&self) {
        lock(&self.ordered).clear();
    }

    pub(super) fn script(&self, script: Script) {
        *lock(&self.script) = Some(script);
    }

    pub(super) fn omit_query_errors(&self, omit: bool) {
        self.omit_query_errors.store(omit, Relaxed);
    }

    pub(super) fn omits_query_errors(&self) -> bool {
        self.omit_query_errors.load(Relaxed)
    }

    pub(super) fn of(&self, call: &Call) -> Option<Fault> {
        let mut ordered = lock(&self.ordered);
        let meant = |(operation, _, _): &(String, usize, Fault)| operation == "*" || *operation == call.operation;
        if let Some(index) = ordered.iter().position(meant) {
            let (_, times, fault) = &mut ordered[index];
            *times -= 1;
            let (left, fault) = (*times, fault.clone());
            if left == 0 {
                ordered.remove(index);
            }
            return Some(fault);
        }
        drop(ordered);
        lock(&self.script).as_mut().and_then(|script| script(call))
    }
}
