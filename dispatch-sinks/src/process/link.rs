//! The pipe to one worker: frames are put in under the pool's lock, in order, and written by whoever comes next.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::Signal;
use tokio::{net::unix::pipe, sync::Notify};

use super::process::Handle;

/// What is to be written to a worker.
pub(super) struct Link {
    sender: pipe::Sender,
    process: Arc<Handle>,
    out: Mutex<Out>,
    /// Whether the pipe was full: then the worker's own task waits until it is not.
    stuck: AtomicBool,
    stuck_now: Notify,
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    /// How many of them are written.
    sent: usize,
    /// Whether SIGUSR1 follows: right after the note that is written last.
    bell: bool,
    /// Nobody reads any more.
    broken: bool,
}

impl Link {
    pub(super) fn new(sender: pipe::Sender, process: Arc<Handle>) -> Self {
        Self {
            sender,
            process,
            out: Mutex::default(),
            stuck: AtomicBool::new(false),
            stuck_now: Notify::new(),
        }
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; [`flush`](Self::flush) sends it.
    pub(super) fn put(&self, frame: impl FnOnce(&mut Vec<u8>)) {
        let mut out = self.out();
        if !out.broken {
            frame(&mut out.bytes);
        }
    }

    /// Lets SIGUSR1 follow what was put in, as soon as all of it is written.
    pub(super) fn ring(&self) {
        self.out().bell = true;
    }

    /// Sends SIGUSR1 whatever is still to be written.
    ///
    /// A worker that is busy reads nothing until the bell rings, so a note that does not fit into its pipe would never
    /// come; the bell alone cancels the task at work.
    pub(super) fn ring_at_once(&self) {
        let mut out = self.out();
        out.bell = false;
        self.process.signal(Signal::USR1);
    }

    /// Whether something waits for room in the pipe.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    /// Writes as much as fits.
    pub(super) fn flush(&self) {
        let mut out = self.out();
        while out.sent < out.bytes.len() {
            match self.sender.try_write(&out.bytes[out.sent..]) {
                Ok(written) => out.sent += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.stuck.swap(true, Ordering::AcqRel) {
                        self.stuck_now.notify_one();
                    }
                    return;
                }
                Err(_) => {
                    // The worker has closed its end: its death, which is about to be seen, says the rest.
                    out.broken = true;
                    break;
                }
            }
        }
        self.stuck.store(false, Ordering::Release);
        out.sent = 0;
        out.bytes.clear();
        // One large frame must not be paid for until the worker's end.
        out.bytes.shrink_to(64 * 1024);
        if std::mem::take(&mut out.bell) {
            self.process.signal(Signal::USR1);
        }
    }

    /// Waits until there is something to write and room for it.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(super) async fn room(&self) {
        while !self.is_stuck() {
            self.stuck_now.notified().await;
        }
        // An error shows at the next write.
        drop(self.sender.writable().await);
    }
}
