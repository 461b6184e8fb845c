//! What the listener, the socket and the producers share, and what becomes of each message that one of them has.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dispatch_core::{
    Backoff, Commands,
    config::BuildContext,
    tasks::{BarePayload, ControlMessage, Incoming, TaskMessage, add_members, chunks::Assembly},
    telemetry::Counter,
};
use dispatch_pg_client::Server;
use tokio::{sync::watch, time::Instant};

use super::{PgNotifySourceConfig, control, hall::Hall, replies::Replies};

/// One service: what dispatcherd calls so.
pub(super) struct Service {
    pub(super) config: PgNotifySourceConfig,
    pub(super) server: Server,
    pub(super) hall: Arc<Hall>,
    pub(super) commands: Commands,
    pub(super) checks: Option<Checks>,
    pub(super) backoff: Backoff,
    pub(super) node_id: String,
    /// None: the connection is well.
    pub(super) health: watch::Sender<Option<String>>,
    pub(super) replies: Replies,
    pub(super) counts: Counts,
    assembly: Mutex<Assembly>,
    pub(super) started: Instant,
    rejected: Counter,
    pub(super) gaps: Counter,
}

/// How a silent connection is asked whether it still hears.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checks {
    pub(super) idle: Duration,
    pub(super) max_age: Duration,
}

/// What dispatcherd's own counters count.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Messages, commands included.
    pub(super) received: AtomicU64,
    pub(super) control: AtomicU64,
    /// Messages from the broker.
    pub(super) broker: AtomicU64,
    pub(super) socket: AtomicU64,
    pub(super) scheduled: AtomicU64,
    pub(super) on_start: AtomicU64,
    /// Connections made anew.
    pub(super) recycled: AtomicU64,
    pub(super) checks: Mutex<CheckCounts>,
}

/// How self-checks went.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct CheckCounts {
    pub(super) successes: u64,
    pub(super) total: Duration,
    pub(super) longest: Duration,
}

/// Where a message came from, and so where its answer goes.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A channel of the server.
    Channel(Arc<str>),
    /// A client of the socket, by its number, and what it is written to.
    Client(u64, tokio::sync::mpsc::UnboundedSender<String>),
    /// The service itself.
    Own,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("place", &self.server.place())
            .field("channels", &self.config.channels)
            .finish_non_exhaustive()
    }
}

impl Service {
    pub(super) fn new(
        config: PgNotifySourceConfig,
        server: Server,
        hall: Arc<Hall>,
        context: &BuildContext,
        checks: Option<Checks>,
        backoff: Backoff,
    ) -> Self {
        let meter = &context.meter;
        Self {
            replies: Replies::new(server.clone()),
            node_id: config
                .control
                .node_id
                .clone()
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            assembly: Mutex::new(Assembly::new(config.chunk_timeout.0)),
            rejected: meter.counter(
                "dispatch_tasks_rejected_total",
                "messages that were no task and no command",
            ),
            gaps: meter.counter(
                "dispatch_pg_notify_gaps_total",
                "times in which nothing was heard, for want of a connection",
            ),
            health: watch::Sender::new(None),
            counts: Counts::default(),
            commands: context.commands.clone(),
            started: Instant::now(),
            config,
            server,
            hall,
            checks,
            backoff,
        }
    }

    pub(super) fn assembly(&self) -> MutexGuard<'_, Assembly> {
        self.assembly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other components of the pipeline, and the process around it, ask by the same names.
    pub(super) fn answer_commands(self: &Arc<Self>) {
        // A pool of workers grows by it.
        let hall = Arc::downgrade(&self.hall);
        self.commands.on("queued", move |_| {
            let queued = hall.upgrade().map_or(0, |hall| hall.queued());
            async move { queued.to_string() }
        });
        let service = Arc::downgrade(self);
        self.commands.on("ctl", move |message: String| {
            let service = service.upgrade();
            async move {
                match (service, Incoming::read(&message, BarePayload::Reject)) {
                    (Some(service), Incoming::Control(command)) => control::answer(&service, &command).await,
                    _ => r#"{"error": "no command"}"#.to_owned(),
                }
            }
        });
    }

    /// Takes in what came: tasks go into the hall, commands are answered beside everything else.
    pub(super) async fn take(self: &Arc<Self>, messages: Vec<(Origin, impl AsRef<str>)>) {
        let mut tasks = Vec::with_capacity(messages.len());
        for (origin, text) in messages {
            let incoming = Incoming::read(text.as_ref(), self.config.bare_payload);
            let incoming = match incoming {
                Incoming::Chunk(chunk) => {
                    let mut assembly = self.assembly();
                    assembly.expire();
                    let Some(whole) = assembly.take(chunk) else { continue };
                    let incoming = Incoming::read(&whole, BarePayload::Reject);
                    assembly.assembled(!matches!(incoming, Incoming::Rejected(_)));
                    incoming
                }
                other => other,
            };
            match incoming {
                Incoming::Task(task) => tasks.push(self.named(&origin, task)),
                Incoming::Control(command) => self.steer(origin, command),
                // Somebody else's question to itself; a piece within a piece is nothing.
                Incoming::SelfCheck(_) | Incoming::Chunk(_) => {}
                Incoming::Rejected(why) => {
                    if why.0.starts_with("a piece") {
                        let mut assembly = self.assembly();
                        assembly.counts.total_chunks_received += 1;
                        assembly.counts.errored_assemblies += 1;
                    }
                    self.rejected.add(1);
                    tracing::error!(?origin, error = %why, "message refused");
                }
            }
        }
        if !tasks.is_empty() {
            self.hall.admit(tasks).await;
        }
    }

    /// Gives the task an id if it has none, and says where it came from.
    pub(super) fn named(&self, origin: &Origin, mut task: TaskMessage) -> TaskMessage {
        let number = self.counts.received.fetch_add(1, Relaxed);
        let client;
        let channel = match origin {
            Origin::Channel(channel) => Some(&**channel),
            Origin::Client(number, _) => {
                client = number.to_string();
                Some(client.as_str())
            }
            Origin::Own => None,
        };
        let new = task.uuid.is_none().then(|| format!("internal-{number}"));
        let uuid = new.as_deref().map(|uuid| ("uuid", uuid));
        let members: Vec<_> = uuid
            .into_iter()
            .chain(channel.map(|channel| ("channel", channel)))
            .collect();
        if !members.is_empty() {
            add_members(&mut task.text, &members);
        }
        if let Some(uuid) = new {
            task.uuid = Some(uuid.into());
        }
        task
    }

    /// Answers in a task of its own: no task waits for a command, and no command for a task.
    fn steer(self: &Arc<Self>, origin: Origin, command: ControlMessage) {
        self.counts.received.fetch_add(1, Relaxed);
        self.counts.control.fetch_add(1, Relaxed);
        if matches!(origin, Origin::Channel(_)) && !self.config.control.pg_notify {
            return tracing::warn!(command = %command.command, "command refused: control.pg_notify is off");
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(delay) = command.delay {
                tokio::time::sleep(delay).await;
            }
            let answer = control::answer(&service, &command).await;
            let Some(reply_to) = command.reply_to.filter(|_| command.delay.is_none()) else {
                return;
            };
            match origin {
                Origin::Channel(_) => service.replies.send(&reply_to, &answer).await,
                Origin::Client(_, client) => super::socket::answer(&client, &answer),
                Origin::Own => {}
            }
        });
    }
}
