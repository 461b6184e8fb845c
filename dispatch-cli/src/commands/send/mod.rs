//! `dispatch send`: messages into a pipeline's source.

mod target;

use std::{
    io::Read as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use clap::Args;
use dispatch_core::{
    Message, Registry,
    config::Period,
    store::{Enqueued, Item},
};
use http::Method;
use serde_json::{Value, json};

use target::Target;

use crate::{
    client::Ask,
    config::OverArgs,
    failure::{Failure, Result},
    global::Global,
    output::{print, print_json},
    run::plural,
    store::StoreArgs,
};

/// Hand messages to a pipeline's source
///
/// The payload is --payload, or standard input as one message, or one a line with --ndjson. A `queue` source gets it
/// through its store, and an `sqs` source through its queue, whether or not the pipeline runs; an `http` source by a
/// request and a `pg_notify` source by a notification, so it must be running.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The pipeline file whose source is meant; by default the one that `run` would take
    #[arg(value_name = "FILE", conflicts_with_all = ["queue", "store"])]
    file: Option<PathBuf>,
    /// Which of several sources
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Which of several channels; for `pg_notify` sources
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// The queue itself, with --store
    #[arg(long, value_name = "NAME", requires = "store")]
    queue: Option<String>,
    /// The store of --queue: sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, value_name = "URL", requires = "queue")]
    store: Option<String>,
    #[command(flatten)]
    over: OverArgs,
    /// A message; several times for several
    #[arg(short, long, value_name = "TEXT")]
    payload: Vec<String>,
    /// Each line of standard input is a message
    #[arg(long, conflicts_with = "payload")]
    ndjson: bool,
    /// A header for each message
    #[arg(short = 'H', long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// The messages' id; random by default
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The messages' key; for queues
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Higher goes first; for queues
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i16,
    /// Not before this time has passed; for queues
    #[arg(long, value_name = "TIME")]
    delay: Option<Period>,
    /// Leave a message out while one with the same word waits; for queues
    #[arg(long, value_name = "WORD")]
    dedupe: Option<String>,
}

/// How many messages go in one transaction.
const BATCH: usize = 500;

/// What went.
#[derive(Default)]
struct Sent {
    sent: u64,
    duplicates: u64,
}

impl Send {
    pub(super) async fn execute(self, global: &Global, registry: &Registry) -> Result {
        let headers = self.headers()?;
        let (place, target) = match &self.queue {
            Some(queue) => {
                let place = StoreArgs {
                    store: self.store.clone(),
                    ..Default::default()
                };
                (place, Target::Queue(queue.clone()))
            }
            None => self.target(global, registry)?,
        };
        let sent = match &target {
            Target::Queue(queue) => {
                let store = place.open(registry, global.color).await?;
                let mut sent = Sent::default();
                let payloads = self.payloads()?;
                for batch in payloads.chunks(BATCH) {
                    let items = batch.iter().map(|payload| self.item(payload, &headers)).collect();
                    for enqueued in store.queue().enqueue(queue, items).await? {
                        match enqueued {
                            Enqueued::New => sent.sent += 1,
                            Enqueued::Duplicate => sent.duplicates += 1,
                        }
                    }
                }
                store.close().await?;
                sent
            }
            Target::Http { url, token } => self.post(url, token.as_deref(), &headers).await?,
            #[cfg(feature = "sqs")]
            Target::Sqs(config) => self.send_to_sqs((**config).clone(), &headers).await?,
            #[cfg(feature = "pg_notify")]
            Target::PgNotify(config) => self.notify((**config).clone(), &headers).await?,
        };
        if global.json {
            print_json(&json!({ "sent": sent.sent, "duplicates": sent.duplicates }))?;
        } else {
            let duplicates = match sent.duplicates {
                0 => String::new(),
                more => format!("; left out {more}, since the same waits already"),
            };
            print(&format!("sent {}{duplicates}", plural(sent.sent, "message")))?;
        }
        Ok(0)
    }

    /// Sends each message to the queue of an sqs source.
    #[cfg(feature = "sqs")]
    async fn send_to_sqs(
        &self,
        mut config: dispatch_sinks::sqs::SqsSinkConfig,
        headers: &[(String, String)],
    ) -> Result<Sent> {
        use dispatch_core::config::Template;
        if self.priority != 0 {
            return Err(Failure::usage("--priority is for `queue` sources"));
        }
        let queue = config.queue_url.as_deref().or(config.queue_name.as_deref());
        if self.key.is_none() && queue.is_some_and(|queue| queue.ends_with(".fifo")) {
            return Err(Failure::usage(
                "a FIFO queue wants each message in a group: name it with --key",
            ));
        }
        config.group_id = self.key.as_ref().map(Template::literal);
        config.deduplication_id = self.dedupe.as_ref().map(Template::literal);
        config.delay = self.delay;
        let sink = dispatch_sinks::sqs::SqsSink::new(config).map_err(refused)?;
        self.send_over(&sink, headers).await
    }

    /// Publishes each message where a `pg_notify` source listens.
    #[cfg(feature = "pg_notify")]
    async fn notify(
        &self,
        config: dispatch_sinks::pg_notify::PgNotifySinkConfig,
        headers: &[(String, String)],
    ) -> Result<Sent> {
        if self.is_for_queues() || self.id.is_some() || !headers.is_empty() {
            return Err(Failure::usage(
                "a notification is its payload alone: write `uuid`, `delay` and `on_duplicate` into that, in the place of --id, --delay \
                 and --dedupe; --key, --priority and --header mean nothing",
            ));
        }
        let sink = dispatch_sinks::pg_notify::PgNotifySink::new(config).map_err(refused)?;
        self.send_over(&sink, headers).await
    }

    #[cfg(any(feature = "pg_notify", feature = "sqs"))]
    async fn send_over(&self, sink: &impl dispatch_core::Sink, headers: &[(String, String)]) -> Result<Sent> {
        let mut sent = Sent::default();
        for batch in self.payloads()?.chunks(BATCH) {
            let messages = batch.iter().map(|payload| self.item(payload, headers).into_message().0);
            for result in sink.send_batch(messages.collect()).await {
                result.map_err(|error| {
                    let went = plural(sent.sent, "message");
                    Failure::run(format!("{}\n  {went} went before", error.report()))
                })?;
                sent.sent += 1;
            }
        }
        Ok(sent)
    }

    fn is_for_queues(&self) -> bool {
        self.key.is_some() || self.delay.is_some() || self.dedupe.is_some() || self.priority != 0
    }

    fn headers(&self) -> Result<Vec<(String, String)>> {
        let split = |header: &String| match header.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Failure::usage(format!("--header {header}: write NAME=VALUE"))),
        };
        self.header.iter().map(split).collect()
    }

    /// The messages' bytes.
    fn payloads(&self) -> Result<Vec<Bytes>> {
        if !self.payload.is_empty() {
            return Ok(self.payload.iter().map(|payload| payload.clone().into()).collect());
        }
        let mut input = Vec::new();
        std::io::stdin()
            .read_to_end(&mut input)
            .map_err(|error| Failure::run(format!("cannot read standard input: {error}")))?;
        let input = Bytes::from(input);
        if !self.ndjson {
            return Ok(vec![input]);
        }
        let lines = input.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        Ok(lines
            .filter(|line| !line.is_empty())
            .map(|line| input.slice_ref(line))
            .collect())
    }

    fn item(&self, payload: &Bytes, headers: &[(String, String)]) -> Item {
        let mut message = match &self.id {
            Some(id) => Message::with_id(id, payload.clone()),
            None => Message::new(payload.clone()),
        };
        for (name, value) in headers {
            message = message.header(name, value.as_str());
        }
        if let Some(key) = &self.key {
            message = message.with_key(key);
        }
        let mut item = Item::of(&message);
        item.priority = self.priority;
        item.dedupe = self.dedupe.as_deref().map(Into::into);
        let delay = self.delay.map_or(Duration::ZERO, |delay| delay.0);
        item.run_at = (!delay.is_zero()).then(|| SystemTime::now() + delay);
        item
    }

    /// Posts each message to the http source.
    async fn post(&self, url: &str, token: Option<&str>, headers: &[(String, String)]) -> Result<Sent> {
        if self.is_for_queues() {
            return Err(Failure::usage(
                "--key, --delay, --dedupe and --priority are for `queue` sources",
            ));
        }
        let mut sent = Sent::default();
        for body in self.payloads()? {
            let mut headers = headers.to_vec();
            headers.extend(self.id.iter().map(|id| ("idempotency-key".to_owned(), id.clone())));
            let ask = Ask {
                method: Method::POST,
                url,
                token,
                headers,
                body,
            };
            let answer = ask.send().await?;
            if !answer.status.is_success() {
                let went = sent.sent;
                return Err(Failure::run(format!(
                    "{url} answers {}; {went} went before",
                    answer.words()
                )));
            }
            let answer: Option<Value> = serde_json::from_slice(&answer.body).ok();
            match answer.and_then(|answer| answer.get("duplicate")?.as_bool()) {
                Some(true) => sent.duplicates += 1,
                _ => sent.sent += 1,
            }
        }
        Ok(sent)
    }
}

/// A setting that cannot be, with what would be right.
#[cfg(any(feature = "pg_notify", feature = "sqs"))]
fn refused(mistake: dispatch_core::config::ConfigError) -> Failure {
    let help = mistake.help.as_ref().map(|help| format!("; {help}"));
    Failure::usage(format!("{mistake}{}", help.unwrap_or_default()))
}
