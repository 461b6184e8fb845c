//! Hints from process to process: LISTEN and NOTIFY. They carry no data and may be lost; a slow poll stands behind them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use dispatch_core::random_id;
use md5::{Digest, Md5};
use sea_orm::{
    DbErr, Value,
    sea_query::ArrayType,
    sqlx::{self, postgres::PgNotification},
};
use smol_str::SmolStr;
use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

use super::{
    conn::{Conn, Needs, Work},
    connections::Connections,
    hints::Hints,
    ride::{Enqueuing, Rides},
    servers::Servers,
};

/// The pause after a notification, once there is more than one thing to announce at a time: NOTIFY takes a lock that is one
/// for the whole server. It grows from the first to the second; who listens is busy then.
const QUIET: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
/// The most bytes of a queue's name that a channel's name has room for: PostgreSQL allows 63.
const LONGEST: usize = 63 - "dispatch_".len();
/// How long a connection to listen may take.
const CONNECT: Duration = Duration::from_secs(30);
/// Between two tries to listen, at most; half of it at least, so that not all processes come to a new server at once.
const AGAIN: Duration = Duration::from_secs(1);

/// Sends hints and, once somebody waits, receives them.
#[derive(Debug)]
pub(super) struct Notifier {
    announced: mpsc::UnboundedSender<SmolStr>,
    rides: Arc<Rides>,
    sender: AbortHandle,
    listening: Mutex<Listening>,
    setup: Setup,
}

#[derive(Debug, Default)]
struct Listening {
    queues: BTreeSet<SmolStr>,
    wanted: Option<mpsc::UnboundedSender<SmolStr>>,
    task: Option<AbortHandle>,
}

#[derive(Debug, Clone)]
struct Setup {
    servers: Servers,
    /// The payload of our own notifications, so that they do not wake ourselves.
    own: SmolStr,
    hints: Arc<Hints>,
}

impl Notifier {
    pub(super) fn new(connections: Arc<Connections>, servers: Servers, hints: Arc<Hints>) -> Self {
        let setup = Setup {
            servers,
            own: random_id(),
            hints,
        };
        let (announced, queues) = mpsc::unbounded_channel();
        let sender = tokio::spawn(send(connections, setup.clone(), queues)).abort_handle();
        Self {
            announced,
            rides: Arc::default(),
            sender,
            listening: Mutex::default(),
            setup,
        }
    }

    /// Begins an enqueue, which may announce itself.
    pub(super) fn enqueuing(&self, queue: &str) -> Enqueuing {
        self.rides.begin(|| (Setup::channel(queue), self.setup.own.clone()))
    }

    pub(super) fn announce(&self, queue: &str) {
        self.rides.announced();
        if self.announced.send(queue.into()).is_err() {
            tracing::debug!(queue, "not announced: the store is closed");
        }
    }

    pub(super) fn listen(&self, queue: &str) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.wanted.as_ref().is_none_or(mpsc::UnboundedSender::is_closed) {
            let (wanted, queues) = mpsc::unbounded_channel();
            listening.queues.clear();
            listening.wanted = Some(wanted);
            listening.task = Some(tokio::spawn(receive(self.setup.clone(), queues)).abort_handle());
        }
        if listening.queues.insert(queue.into())
            && let Some(wanted) = &listening.wanted
            && wanted.send(queue.into()).is_err()
        {
            tracing::debug!(queue, "not listening: the store is closed");
        }
    }

    pub(super) fn end(&self) {
        self.sender.abort();
        if let Some(task) = self
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .task
            .take()
        {
            task.abort();
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.end();
    }
}

impl Setup {
    /// One channel a queue, named as it; by its MD5 where that would be longer than a channel's name may be. The SQL function
    /// `dispatch_enqueue` does the same. Queues of the same name in two schemas wake each other in vain.
    fn channel(queue: &str) -> String {
        if queue.len() <= LONGEST {
            return format!("dispatch_{queue}");
        }
        let hash = Md5::digest(queue);
        hash.iter()
            .fold("dispatch_".to_owned(), |channel, byte| format!("{channel}{byte:02x}"))
    }
}

async fn send(connections: Arc<Connections>, setup: Setup, mut queues: mpsc::UnboundedReceiver<SmolStr>) {
    let mut batch = Vec::new();
    let [least, most] = QUIET;
    let mut quiet = Duration::ZERO;
    while queues.recv_many(&mut batch, 10_000).await > 0 {
        quiet = if batch.len() > 1 {
            (quiet * 2).clamp(least, most)
        } else {
            Duration::ZERO
        };
        let channels: BTreeSet<String> = batch.drain(..).map(|queue: SmolStr| Setup::channel(&queue)).collect();
        let own = setup.own.clone();
        if let Err(error) = connections.perform(&Notify { channels, own }).await {
            tracing::debug!(%error, "notify failed; the poll will find it");
        }
        if !quiet.is_zero() {
            sleep(quiet).await;
        }
    }
}

/// One notification a channel.
struct Notify {
    channels: BTreeSet<String>,
    own: SmolStr,
}

#[async_trait]
impl Work for Notify {
    type Answer = ();

    fn what(&self) -> String {
        "notify".to_owned()
    }

    fn needs(&self) -> Needs {
        Needs::LightStatement
    }

    async fn run(&self, conn: &mut Conn<'_>) -> Result<(), DbErr> {
        let notify = "SELECT pg_notify(channel, $2), set_config('synchronous_commit', 'off', true)
            FROM unnest($1::text[]) AS channel";
        let channels = self.channels.iter().map(|channel| channel.as_str().into()).collect();
        let values = vec![
            Value::Array(ArrayType::String, Some(Box::new(channels))),
            self.own.as_str().into(),
        ];
        conn.all(notify, values).await.map(drop)
    }
}

async fn receive(setup: Setup, mut wanted: mpsc::UnboundedReceiver<SmolStr>) {
    let mut queues = HashMap::new();
    loop {
        match listen(&setup, &mut wanted, &mut queues).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "listening failed; trying again"),
        }
        sleep(AGAIN.mul_f64(rand::random_range(0.5..=1.0))).await;
        setup.hints.bump_all();
    }
}

/// Listens until nobody can ask any more, or the server cannot be reached.
async fn listen(
    setup: &Setup,
    wanted: &mut mpsc::UnboundedReceiver<SmolStr>,
    queues: &mut HashMap<String, SmolStr>,
) -> Result<(), sqlx::Error> {
    let channels: Vec<&str> = queues.keys().map(String::as_str).collect();
    let mut listener = setup.servers.listen(&channels, CONNECT).await?;
    setup.hints.bump_all();
    loop {
        tokio::select! {
            queue = wanted.recv() => {
                let Some(queue) = queue else { return Ok(()) };
                let channel = Setup::channel(&queue);
                queues.insert(channel.clone(), queue.clone());
                listener.listen(&channel).await?;
                // What came before the server listened was not heard.
                setup.hints.of(&queue).bump();
            }
            heard = listener.try_recv() => hear(setup, queues, heard?),
        }
    }
}

/// Passes a notification on; none means that the connection was lost, and any number with it.
fn hear(setup: &Setup, queues: &HashMap<String, SmolStr>, heard: Option<PgNotification>) {
    match heard {
        None => setup.hints.bump_all(),
        Some(heard) if heard.payload() == setup.own => {}
        Some(heard) => {
            if let Some(queue) = queues.get(heard.channel()) {
                setup.hints.of(queue).bump();
            }
        }
    }
}
