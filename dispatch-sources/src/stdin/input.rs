//! An input as the whole process has it: read by one thread, and by one source after the other.

use std::{
    fmt,
    io::{self, Read},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc::UnboundedReceiver},
    time::timeout,
};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// So many pieces are read ahead.
const AHEAD: usize = 2;
/// How long a piece that was asked for may take to come once the source closes.
const IN_HAND: Duration = Duration::from_millis(100);

static STANDARD: LazyLock<Arc<Shared>> = LazyLock::new(|| Shared::of(io::stdin()));

/// One source's share in an input. The input is its own from the first read to the end of its hold; another waits meanwhile.
pub(super) struct Input {
    shared: Arc<Shared>,
}

struct Shared {
    /// How many sources have a share.
    sources: AtomicUsize,
    state: Arc<Mutex<State>>,
}

/// The input, while it is held.
pub(super) type Hold = OwnedMutexGuard<State>;

pub(super) struct State {
    reader: Reader,
    /// The half of a line that the last source has read.
    pub(super) left: BytesMut,
    /// How many lines came before that.
    pub(super) lines: u64,
}

enum Reader {
    /// Nobody has read yet.
    New(Box<dyn Read + Send>),
    Running(Pieces),
    Ended,
}

/// A thread of its own, since such a read can be neither polled nor stopped. It reads once for each time it is asked, so
/// that nothing is read that nobody waits for.
struct Pieces {
    ask: mpsc::Sender<()>,
    /// How many have been asked for and did not come yet.
    asked: usize,
    pieces: UnboundedReceiver<io::Result<Bytes>>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

impl Shared {
    fn of(reader: impl Read + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            sources: AtomicUsize::new(0),
            state: Arc::new(Mutex::new(State {
                reader: Reader::New(Box::new(reader)),
                left: BytesMut::new(),
                lines: 0,
            })),
        })
    }
}

impl Input {
    /// A share in the standard input of this process.
    pub(super) fn standard() -> Self {
        Self::share(&STANDARD)
    }

    /// The only share in `reader`.
    pub(super) fn of(reader: impl Read + Send + 'static) -> Self {
        Self::share(&Shared::of(reader))
    }

    fn share(shared: &Arc<Shared>) -> Self {
        shared.sources.fetch_add(1, SeqCst);
        Self {
            shared: Arc::clone(shared),
        }
    }

    /// Waits until no other source has the input.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(super) async fn hold(&self) -> Hold {
        Arc::clone(&self.shared.state).lock_owned().await
    }

    /// Whether another source goes on with the input after this one, as after a reload.
    pub(super) fn has_successor(&self) -> bool {
        self.shared.sources.load(SeqCst) > 1
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let last = self.shared.sources.fetch_sub(1, SeqCst) == 1;
        if last
            && let Ok(state) = self.shared.state.try_lock()
            && !state.left.is_empty()
        {
            let (bytes, line) = (state.left.len(), state.lines + 1);
            tracing::error!(
                bytes,
                line,
                "half a line of the input is left, and no source goes on with it"
            );
        }
    }
}

impl State {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// Those of the reader, and of the thread's start.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Reader::New(_) = self.reader
            && let Reader::New(reader) = std::mem::replace(&mut self.reader, Reader::Ended)
        {
            self.reader = Reader::Running(Pieces::start(reader)?);
        }
        let Reader::Running(pieces) = &mut self.reader else {
            return Ok(None);
        };
        pieces.ask_ahead();
        let piece = pieces.receive().await;
        match &piece {
            Some(_) => pieces.ask_ahead(),
            None => self.reader = Reader::Ended,
        }
        piece.transpose()
    }

    /// What was asked for and has come by now, or comes at once: nobody else can read it again.
    pub(super) async fn in_hand(&mut self) -> BytesMut {
        let mut all = BytesMut::new();
        if let Reader::Running(pieces) = &mut self.reader {
            while pieces.asked > 0
                && let Ok(Some(Ok(piece))) = timeout(IN_HAND, pieces.receive()).await
            {
                all.extend_from_slice(&piece);
            }
        }
        all
    }
}

impl Pieces {
    fn start(mut reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let (ask, asked) = mpsc::channel::<()>();
        let (sender, pieces) = tokio::sync::mpsc::unbounded_channel();
        let read = move || {
            let mut buffer = vec![0; CHUNK];
            while asked.recv().is_ok() {
                let piece = loop {
                    match reader.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(length) => break Ok(Bytes::copy_from_slice(&buffer[..length])),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => break Err(error),
                    }
                };
                if sender.send(piece).is_err() {
                    return;
                }
            }
        };
        // A plain thread: the process may end while it waits for a line that never comes.
        std::thread::Builder::new()
            .name("dispatch-stdin".to_owned())
            .spawn(read)?;
        Ok(Self { ask, asked: 0, pieces })
    }

    fn ask_ahead(&mut self) {
        // A thread that has ended answers by the end of its pieces.
        while self.asked < AHEAD && self.ask.send(()).is_ok() {
            self.asked += 1;
        }
    }

    async fn receive(&mut self) -> Option<io::Result<Bytes>> {
        let piece = self.pieces.recv().await;
        self.asked = self.asked.saturating_sub(1);
        piece
    }
}
