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
    tasks::{BarePayload, ControlMessage, Incoming, TaskMessage, chunks::Assembly, more_members},
    telemetry::{Counter, Meter},
};
use dispatch_pg_client::Server;
use tokio::time::Instant;

use super::{
    PgNotifySourceConfig, control,
    hall::{Hall, Room, Task},
    listener,
    parts::Parts,
    replies::Replies,
};

/// One service: what dispatcherd calls so.
pub(super) struct Service {
    pub(super) config: PgNotifySourceConfig,
    /// None: the socket alone brings messages.
    pub(super) server: Option<Server>,
    pub(super) hall: Arc<Hall>,
    pub(super) commands: Commands,
    pub(super) checks: Option<Checks>,
    pub(super) backoff: Backoff,
    pub(super) node_id: String,
    pub(super) parts: Parts,
    /// As many as there are servers.
    pub(super) replies: Option<Replies>,
    pub(super) counts: Counts,
    assembly: Mutex<Assembly>,
    pub(super) started: Instant,
    pub(super) rejected: Counter,
    pub(super) gaps: Counter,
    pub(super) gap_length: Counter,
    meter: Meter,
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
    /// Tasks that a command started.
    pub(super) run: AtomicU64,
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
    /// A client of the socket, by its number, and where its commands are answered in their order.
    Client(u64, tokio::sync::mpsc::UnboundedSender<ControlMessage>),
    /// The service itself.
    Own,
}

impl Origin {
    /// What the service adds to a task's text for it.
    pub(super) fn member(&self) -> String {
        match self {
            Self::Channel(channel) => more_members(&[("channel", channel)]),
            Self::Client(number, _) => more_members(&[("channel", &number.to_string())]),
            Self::Own => String::new(),
        }
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("place", &self.server.as_ref().map(Server::place))
            .field("channels", &self.config.channels)
            .finish_non_exhaustive()
    }
}

impl Service {
    pub(super) fn new(
        config: PgNotifySourceConfig,
        server: Option<Server>,
        hall: Arc<Hall>,
        context: &BuildContext,
        checks: Option<Checks>,
        backoff: Backoff,
    ) -> Self {
        let meter = &context.meter;
        Self {
            replies: server.clone().map(Replies::new),
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
            gap_length: meter.counter(
                "dispatch_pg_notify_gap_milliseconds_total",
                "how long those times were together, in milliseconds",
            ),
            parts: Parts::new(server.is_some().then_some(listener::NAME), meter),
            counts: Counts::default(),
            meter: meter.clone(),
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
        self.commands.on("main", move |_| {
            let service = service.upgrade();
            async move {
                match service {
                    Some(service) => control::main(&service).await,
                    None => "{}".to_owned(),
                }
            }
        });
        // What a task asks counts as what clients ask.
        let service = Arc::downgrade(self);
        self.commands.on("ctl", move |message: String| {
            let service = service.upgrade();
            async move {
                match (service, Incoming::read(&message, BarePayload::Reject)) {
                    (Some(service), Incoming::Control(command)) => {
                        service.counts.control.fetch_add(1, Relaxed);
                        control::answer_to(&service, &command.command, &command.data).await
                    }
                    _ => r#"{"error": "no command"}"#.to_owned(),
                }
            }
        });
    }

    /// Takes spilled tasks back, for as long as the service runs.
    pub(super) async fn take_back(&self) {
        let taking = || self.hall.take_back(&self.commands, &self.meter);
        while self
            .parts
            .caught("what takes spilled tasks back", taking())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Takes in one task of the service's own.
    pub(super) async fn submit(&self, task: TaskMessage<'_>) {
        let task = self.keep(task, &Origin::Own.member(), &mut Room::default());
        self.hall.admit(vec![task]).await;
    }

    /// Gives the task an id if it has none, and says where it came `from`.
    pub(super) fn keep(&self, mut task: TaskMessage<'_>, from: &str, room: &mut Room) -> Task {
        let number = self.counts.received.fetch_add(1, Relaxed);
        match task.uuid.take() {
            Some(uuid) => Task::keep(task, uuid, from, room),
            None => {
                let uuid = format!("internal-{number}");
                let more = more_members(&[("uuid", &uuid)]) + from;
                Task::keep(task, uuid.into(), &more, room)
            }
        }
    }

    /// Answers beside everything else: no task waits for a command, and no command for a task. Those of one client of the
    /// socket are answered in their order, since nothing but their order says which answer is whose.
    pub(super) fn steer(self: &Arc<Self>, origin: Origin, command: ControlMessage) {
        self.counts.received.fetch_add(1, Relaxed);
        self.counts.control.fetch_add(1, Relaxed);
        if matches!(origin, Origin::Channel(_)) && !self.config.control.pg_notify {
            return tracing::warn!(command = %command.command, "command refused: control.pg_notify is off");
        }
        if let (Origin::Client(_, client), None) = (&origin, command.delay) {
            // Its writer takes commands for as long as the client is read.
            let _taken = client.send(command);
            return;
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let answering = async {
                if let Some(delay) = command.delay {
                    tokio::time::sleep(delay).await;
                }
                let answer = control::answer(&service, &command).await;
                let reply_to = command.reply_to.as_ref().filter(|_| command.delay.is_none());
                if let (Some(reply_to), Some(replies)) = (reply_to, &service.replies) {
                    replies.send(reply_to, &answer).await;
                }
            };
            // Who asked has a timeout.
            let _logged = service.parts.caught("a command", answering).await;
        });
    }
}
