//! Tasks and commands over a unix socket: for when the database is unwell.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use dispatch_core::tasks::{ControlMessage, chunks::split};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use super::{
    control,
    heard::Heard,
    service::{Origin, Service},
};

/// A message is one line; one that is longer goes in pieces.
const LIMIT: usize = 1_024;

/// No line is read that is longer: whoever sends it means no message.
const LONGEST: u64 = 1 << 20;

/// What it is among the parts.
pub(super) const NAME: &str = "socket";

/// Serves until it is dropped; the socket file goes with it.
pub(super) async fn serve(service: Arc<Service>, path: PathBuf) {
    let (listener, _file) = opened(&service, &path).await;
    if let Err(error) = std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)) {
        tracing::warn!(path = %path.display(), %error, "socket's permissions not set");
    }
    tracing::info!(path = %path.display(), "listening on a socket");
    let mut clients = JoinSet::new();
    for number in 0.. {
        match listener.accept().await {
            Ok((stream, _)) => {
                while clients.try_join_next().is_some() {}
                let service = Arc::clone(&service);
                clients.spawn(async move {
                    let serving = client(Arc::clone(&service), stream, number);
                    // Its connection ends, and no other.
                    let _logged = service.parts.caught("a client of the socket", serving).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "socket client not taken");
                // Out of descriptors, most likely: they come back.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Opens the socket, and tries until it can: another process may be about to end, a directory about to be made.
async fn opened(service: &Service, path: &Path) -> (UnixListener, SocketFile) {
    let mut failures = 0;
    loop {
        failures += 1;
        let why = match open(path).await {
            Ok(opened) => {
                service.parts.is_well(NAME);
                return opened;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                "another process answers there: end it, or give this one a path of its own".to_owned()
            }
            Err(error) => error.to_string(),
        };
        tracing::error!(path = %path.display(), error = %why, "socket not opened: nobody can be heard on it yet");
        let why = format!("the socket {} is not open: {why}", path.display());
        service.parts.is_ill(NAME, why);
        let wait = service.backoff.delay(failures, Duration::ZERO, &mut rand::rng());
        sleep(wait).await;
    }
}

async fn open(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // What an earlier process left behind.
    if UnixStream::connect(path).await.is_err() && path.exists() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile {
        inode: inode(path)?,
        path: path.to_owned(),
    };
    Ok((listener, file))
}

/// The file of our socket; what another process has put in its place by the end is that one's.
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

async fn client(service: Arc<Service>, stream: UnixStream, number: u64) {
    let (reading, mut writing) = stream.into_split();
    let (commands, mut to_answer) = mpsc::unbounded_channel::<ControlMessage>();
    let mut reading = BufReader::new(reading);
    let mut line = Vec::new();
    let asked = Arc::clone(&service);
    let write = async move {
        let mut gone = false;
        while let Some(command) = to_answer.recv().await {
            // What it says is done for a client that has gone, too.
            let answer = control::answer(&asked, &command).await;
            if command.reply_to.is_none() || gone {
                continue;
            }
            for piece in pieces(&answer) {
                gone = gone || writing.write_all(piece.as_bytes()).await.is_err();
            }
        }
    };
    // The sender goes with the reader: once that and the answers under way are done, the writer ends.
    let read = async {
        let mut heard = Heard::of(Origin::Client(number, commands));
        loop {
            line.clear();
            let count = (&mut reading)
                .take(LONGEST)
                .read_until(b'\n', &mut line)
                .await
                .unwrap_or(0);
            if count == 0 {
                return;
            }
            if count as u64 == LONGEST && !line.ends_with(b"\n") {
                return tracing::error!(client = number, "socket client sent an endless line");
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.is_empty() {
                service.counts.socket.fetch_add(1, Relaxed);
                heard.read(&service, text);
                heard.admit(&service).await;
            }
        }
    };
    futures::future::join(read, write).await;
}

/// A message as it goes over the socket, either way: in lines, several if it is large.
#[must_use]
pub fn pieces(message: &str) -> Vec<String> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let pieces = split(message, LIMIT, &id).unwrap_or_default();
    pieces.into_iter().map(|piece| piece + "\n").collect()
}
