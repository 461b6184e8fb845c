//! Tasks and commands over a unix socket: for when the database is unwell.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use dispatch_core::tasks::{ControlMessage, chunks::split};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinSet,
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

/// Serves until it is dropped; the socket file goes with it.
pub(super) async fn serve(service: Arc<Service>, path: PathBuf) {
    // What an earlier process left behind.
    if UnixStream::connect(&path).await.is_err() && path.exists() {
        let _stale = std::fs::remove_file(&path);
    }
    let listener = match UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(path = %path.display(), %error, "socket not opened: nobody can be heard on it");
        }
    };
    let _file = SocketFile(path.clone());
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
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
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
