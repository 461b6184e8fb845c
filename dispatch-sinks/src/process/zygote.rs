//! The process that imports a program once and forks its workers.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::Command,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use super::{
    config::Shim,
    error::StartError,
    output::{self, Speaker, Tail},
    process::Exit,
};

/// How long a zygote may take to end once its socket is closed.
const FAREWELL: Duration = Duration::from_secs(3);
/// The zygote's end of the socket, in the zygote.
const SOCKET: i32 = 3;

/// One running zygote.
pub(super) struct Zygote {
    socket: tokio::sync::Mutex<OwnedWriteHalf>,
    births: Arc<Mutex<Births>>,
    /// Reads what it says and, at its end, reaps it. Its drop kills the process.
    task: JoinHandle<()>,
}

/// Who waits for what from the zygote.
#[derive(Default)]
struct Births {
    spawned: HashMap<u64, oneshot::Sender<Result<i32, String>>>,
    exits: HashMap<u64, oneshot::Sender<Exit>>,
    gone: bool,
}

/// What the zygote writes, a line each.
#[derive(Deserialize)]
struct Said {
    ready: Option<Ready>,
    spawned: Option<Spawned>,
    exited: Option<Exited>,
    error: Option<String>,
    module: Option<String>,
    worker_id: Option<u64>,
}
#[derive(Deserialize)]
struct Ready {
    pid: i32,
    preloaded: Vec<String>,
}
#[derive(Deserialize)]
struct Spawned {
    worker_id: u64,
    pid: i32,
}
#[derive(Deserialize)]
struct Exited {
    worker_id: u64,
    status: i32,
}

/// A worker that was forked.
pub(super) struct Forked {
    pub(super) pid: i32,
    /// How it ended; closed unsent if the zygote ended first.
    pub(super) exit: oneshot::Receiver<Exit>,
}

impl Zygote {
    /// Starts `command`, which is the zygote's program and all that its workers are to inherit. `gone` is called at its end.
    pub(super) fn start(
        mut command: Command,
        log: bool,
        gone: impl FnOnce() + Send + 'static,
    ) -> Result<Self, StartError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(StartError::Pipes)?;
        ours.set_nonblocking(true).map_err(StartError::Pipes)?;
        let (reader, writer) = UnixStream::from_std(ours).map_err(StartError::Pipes)?.into_split();
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let mapping = FdMapping {
            parent_fd: theirs.into(),
            child_fd: SOCKET,
        };
        command
            .env("DISPATCH_ZYGOTE_FD", SOCKET.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            // A terminal's Ctrl-C is for dispatch, which drains.
            .process_group(0);
        if log {
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let collision = |_| StartError::Pipes(io::Error::other("two descriptors want one number"));
        command.fd_mappings(vec![mapping]).map_err(collision)?;
        let mut child = command
            .spawn()
            .map_err(|source| StartError::Program { program, source })?;
        // With it goes our copy of the zygote's end.
        drop(command);
        tracing::debug!(pid = child.id(), "zygote started");

        let births = Arc::<Mutex<Births>>::default();
        let held = Arc::clone(&births);
        let task = tokio::spawn(async move {
            let tail = Tail::default();
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let printed = async {
                let stdout = async {
                    if let Some(stdout) = stdout {
                        output::log(stdout, Speaker::Zygote, "stdout", tail.clone()).await;
                    }
                };
                let stderr = async {
                    if let Some(stderr) = stderr {
                        output::log(stderr, Speaker::Zygote, "stderr", tail.clone()).await;
                    }
                };
                tokio::join!(stdout, stderr)
            };
            let life = async {
                listen(reader, &held).await;
                let status = child.wait().await;
                status.map_or(Exit::Unknown, Exit::from)
            };
            tokio::pin!(printed);
            tokio::pin!(life);
            let mut silent = false;
            let exit = loop {
                tokio::select! {
                    exit = &mut life => break exit,
                    _ = &mut printed, if !silent => silent = true,
                }
            };
            if !silent {
                // What its last words were; whoever else holds the pipes may go on for ever.
                drop(timeout(Duration::from_millis(200), printed).await);
            }
            let told = format!(": it {exit}{}", tail.told());
            let (spawned, exits) = {
                let mut births = lock(&held);
                births.gone = true;
                (std::mem::take(&mut births.spawned), std::mem::take(&mut births.exits))
            };
            for waiting in spawned.into_values() {
                drop(waiting.send(Err(told.clone())));
            }
            drop(exits);
            tracing::debug!(%exit, "zygote ended");
            gone();
        });
        let socket = tokio::sync::Mutex::new(writer);
        Ok(Self { socket, births, task })
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.births).gone || self.task.is_finished()
    }

    /// Asks for a worker whose descriptors 3 and 4, and 1 and 2 if there are four, are `fds`.
    pub(super) async fn fork(&self, worker: u64, shim: Shim, fds: Vec<OwnedFd>) -> Result<Forked, StartError> {
        let shim = match shim {
            Shim::Standalone => "standalone",
            Shim::Dispatcherd => "dispatcherd",
        };
        let request = json!({ "spawn": { "worker_id": worker, "shim": shim, "fds": fds.len() } });
        let request = format!("{request}\n");
        let (tell_spawned, spawned) = oneshot::channel();
        let (tell_exit, exit) = oneshot::channel();
        {
            let mut births = lock(&self.births);
            if births.gone {
                return Err(StartError::ZygoteGone(String::new()));
            }
            births.spawned.insert(worker, tell_spawned);
            births.exits.insert(worker, tell_exit);
        }
        let sent = self.send(request.as_bytes(), &fds).await;
        drop(fds);
        if let Err(error) = sent {
            tracing::debug!(worker, %error, "zygote takes no request");
        }
        // A request that could not be written is answered too: the zygote has gone.
        match spawned.await {
            Ok(Ok(pid)) => Ok(Forked { pid, exit }),
            Ok(Err(told)) if self.is_gone() => Err(StartError::ZygoteGone(told)),
            Ok(Err(why)) => Err(StartError::Refused(why)),
            Err(_) => Err(StartError::ZygoteGone(String::new())),
        }
    }

    /// The descriptors go with the first byte.
    async fn send(&self, request: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
        let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let writer = self.socket.lock().await;
        let socket = writer.as_ref();
        let mut sent = 0;
        while sent < request.len() {
            sent += socket
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    if sent == 0 && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                        return Err(io::Error::other("too many descriptors for one message"));
                    }
                    let rest = [IoSlice::new(&request[sent..])];
                    rustix::net::sendmsg(socket, &rest, &mut control, SendFlags::NOSIGNAL).map_err(io::Error::from)
                })
                .await?;
        }
        Ok(())
    }

    /// Closes the socket, which ends the zygote, and waits; then kills it.
    pub(super) async fn end(self) {
        let Self { socket, mut task, .. } = self;
        // Shuts our half, which is enough for the zygote to see the end.
        drop(socket);
        if timeout(FAREWELL, &mut task).await.is_err() {
            tracing::warn!("zygote did not end in time and is killed");
            task.abort();
            drop(task.await);
        }
    }
}

impl std::fmt::Debug for Zygote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zygote").finish_non_exhaustive()
    }
}

fn lock(births: &Mutex<Births>) -> MutexGuard<'_, Births> {
    births.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads what the zygote says, to the end.
async fn listen(socket: OwnedReadHalf, births: &Mutex<Births>) {
    let mut lines = BufReader::new(socket).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(said) = serde_json::from_str::<Said>(&line) else {
            tracing::warn!(line, "zygote wrote what nobody understands, skipped");
            continue;
        };
        match said {
            Said { ready: Some(ready), .. } => {
                tracing::debug!(pid = ready.pid, preloaded = ?ready.preloaded, "zygote is ready");
            }
            Said { spawned: Some(one), .. } => {
                if let Some(waiting) = lock(births).spawned.remove(&one.worker_id) {
                    drop(waiting.send(Ok(one.pid)));
                }
            }
            Said { exited: Some(one), .. } => {
                if let Some(waiting) = lock(births).exits.remove(&one.worker_id) {
                    // Its worker may not be waited for any more.
                    waiting.send(one.status.into()).ok();
                }
            }
            Said {
                error: Some(error),
                worker_id: Some(worker),
                ..
            } => {
                let mut births = lock(births);
                births.exits.remove(&worker);
                if let Some(waiting) = births.spawned.remove(&worker) {
                    drop(waiting.send(Err(error)));
                }
            }
            Said { error, module, .. } => {
                tracing::error!(
                    module,
                    error,
                    "zygote: a module of `preload` does not work as it should"
                );
            }
        }
    }
}
