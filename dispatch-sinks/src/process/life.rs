//! One worker's life, from its start to its end: the task that reads what it says.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use futures::future::BoxFuture;
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::unix::pipe, task::JoinSet, time::timeout};

use super::{
    launch::Launched,
    link::Link,
    output::{self, Speaker, Tail},
    pool::{Effects, Pool},
    process::{Exit, Handle},
    wire::{self, Event},
    worker::Status,
};

/// How much is read at once: what a pipe holds.
const READ: usize = 64 * 1024;
/// A worker whose line has no end is broken: 1 GiB.
const LONGEST_LINE: usize = 1 << 30;
/// How long the last words of a dead worker are waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long a worker may live on once it has closed its end of the pipe.
const MUTE: Duration = Duration::from_secs(5);

/// Starts worker `id` and stays with it to the end.
pub(super) async fn lead(pool: Weak<Pool>, id: u64) {
    let Some(strong) = pool.upgrade() else { return };
    let gone = pool.clone();
    let zygote_gone = move |number| {
        if let Some(pool) = gone.upgrade() {
            pool.zygote_gone(number);
        }
    };
    let Launched {
        process,
        tasks,
        events,
        printed,
        exit,
        zygote,
    } = match strong.launcher.launch(id, zygote_gone).await {
        Ok(launched) => launched,
        Err(error) => return strong.not_started(id, &error),
    };
    let link = Arc::new(Link::new(tasks, Arc::clone(&process)));
    let tail = Tail::default();
    {
        let mut state = strong.lock();
        let closing = state.closing;
        let Some(index) = state.find(id) else { return };
        let worker = &mut state.workers[index];
        worker.status = Status::Starting;
        worker.process = Some(Arc::clone(&process));
        worker.link = Some(Arc::clone(&link));
        worker.zygote = zygote;
        worker.tail = tail.clone();
        if closing {
            worker.signal(rustix::process::Signal::KILL);
        }
    }
    strong.kick.notify_one();
    drop(strong);
    tracing::debug!(worker = id, pid = process.pid(), "worker started");

    let mut voices = JoinSet::new();
    for (stream, from) in printed {
        voices.spawn(output::log(from, Speaker::Worker(id), stream, tail.clone()));
    }
    let exit = follow(&pool, id, &link, events, exit, &process).await;
    // Whoever else holds its output open may do so for ever.
    drop(timeout(LAST_WORDS, async { while voices.join_next().await.is_some() {} }).await);
    if let Some(pool) = pool.upgrade() {
        pool.gone(id, exit);
    }
    // What processes that it left behind still print.
    while voices.join_next().await.is_some() {}
}

/// Reads what the worker says and writes what waits for room, until its process has ended and all is read.
async fn follow(
    pool: &Weak<Pool>,
    id: u64,
    link: &Link,
    mut events: pipe::Receiver,
    mut exit: BoxFuture<'static, Exit>,
    process: &Handle,
) -> Exit {
    let mut ear = Ear {
        pool,
        id,
        searched: 0,
        effects: Effects::default(),
        asks: JoinSet::new(),
    };
    let mut buffer = BytesMut::with_capacity(READ);
    let mut open = true;
    loop {
        tokio::select! {
            read = events.read_buf(&mut buffer), if open => {
                open = matches!(read, Ok(1..)) && ear.take(&mut buffer);
            }
            () = link.room() => link.flush(),
            exit = &mut exit => {
                // What it said last is still in the pipe.
                while open {
                    match events.try_read_buf(&mut buffer) {
                        Ok(1..) => open = ear.take(&mut buffer),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Ok(_) | Err(_) => open = false,
                    }
                }
                return exit;
            }
            Some(_) = ear.asks.join_next(), if !ear.asks.is_empty() => {}
            () = tokio::time::sleep(MUTE), if !open => {
                tracing::warn!(worker = id, "worker has closed its pipe and lives on: it is killed");
                process.signal(rustix::process::Signal::KILL);
                return exit.await;
            }
        }
    }
}

/// Takes in what a worker says.
struct Ear<'p> {
    pool: &'p Weak<Pool>,
    id: u64,
    /// How much of what is read has no line's end in it.
    searched: usize,
    effects: Effects,
    /// What the worker asked, on its way.
    asks: JoinSet<()>,
}

impl Ear<'_> {
    /// Takes in every line that is whole, and makes room for more; false if that is of no use.
    fn take(&mut self, buffer: &mut BytesMut) -> bool {
        let Some(pool) = self.pool.upgrade() else { return false };
        let searched = std::mem::replace(&mut self.searched, buffer.len());
        if let Some(end) = buffer[searched..].iter().rposition(|byte| *byte == b'\n') {
            let end = searched + end;
            for line in buffer[..end].split(|byte| *byte == b'\n') {
                if !line.trim_ascii().is_empty() {
                    self.line(&pool, line);
                }
            }
            buffer.advance(end + 1);
            self.searched = buffer.len();
            pool.carry_out(&mut self.effects);
        }
        if buffer.len() > LONGEST_LINE {
            tracing::warn!(worker = self.id, "worker writes a line without an end");
            return false;
        }
        buffer.reserve(READ);
        true
    }

    fn line(&mut self, pool: &Arc<Pool>, line: &[u8]) {
        let event = std::str::from_utf8(line).ok().and_then(wire::event);
        let Some(event) = event else {
            let shown = String::from_utf8_lossy(&line[..line.len().min(200)])
                .escape_debug()
                .to_string();
            tracing::warn!(worker = self.id, line = shown, "worker wrote what is no event, skipped");
            return;
        };
        if let Event::Control { seq, command, data } = event {
            let (seq, pool) = (seq.to_owned(), Arc::downgrade(pool));
            let mut message = format!("{{\"control\": {command}");
            if let Some(data) = data {
                message += ", \"control_data\": ";
                message += data;
            }
            message.push('}');
            self.asks.spawn(answer(pool, self.id, seq, message));
            return;
        }
        pool.happened(self.id, event, &mut self.effects);
    }
}

/// Finds out what a task wants to know.
async fn answer(pool: Weak<Pool>, id: u64, seq: String, message: String) {
    let Some(pool) = pool.upgrade() else { return };
    let answers = pool.commands.ask("ctl", &message).await;
    let nobody = || json!({ "error": "this pipeline has no source that answers commands" }).to_string();
    let answer = answers.into_iter().next().unwrap_or_else(nobody);
    let link = {
        let state = pool.lock();
        state.find(id).and_then(|index| state.workers[index].link.clone())
    };
    if let Some(link) = link {
        link.put(|out| wire::write_note(out, "control", &[&seq, &answer]));
        link.flush();
    }
}
