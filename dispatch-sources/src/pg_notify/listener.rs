//! The connection that listens: kept for ever, made anew at once when it is lost.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use dispatch_core::Error;
use dispatch_pg_client::{Connection, PgError, quoted};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::{AsyncMessage, Client, Notification};

use super::service::{Origin, Service};

/// A notification, for what it says.
struct Heard(Notification);

impl AsRef<str> for Heard {
    fn as_ref(&self) -> &str {
        self.0.payload()
    }
}

/// At most so many notifications are taken in at once.
const BATCH: usize = 1_000;

/// Listens for ever.
pub(super) async fn run(service: Arc<Service>) {
    let (mut failures, mut deaf_since) = (0, None);
    loop {
        let error = match listen(&service, &mut failures, &mut deaf_since).await {
            Ok(never) => match never {},
            Err(error) => Error::from(error),
        };
        deaf_since.get_or_insert_with(Instant::now);
        service.health.send_replace(Some(error.report()));
        service.counts.recycled.fetch_add(1, Relaxed);
        // The first try is made at once.
        if failures > 0 {
            let wait = service.backoff.delay(failures, Duration::ZERO, &mut rand::rng());
            sleep(wait).await;
        }
        failures += 1;
    }
}

/// Connects and takes in what comes, until the connection is lost.
async fn listen(
    service: &Arc<Service>,
    failures: &mut u32,
    deaf_since: &mut Option<Instant>,
) -> Result<std::convert::Infallible, PgError> {
    let (client, mut connection) = service.server.connect().await?;
    let own = format!("self_check_{}", uuid::Uuid::new_v4().simple());
    let channels = service.config.channels.iter().map(String::as_str).chain([own.as_str()]);
    let statements: String = channels.map(|channel| format!("LISTEN {};", quoted(channel))).collect();
    {
        // Nothing comes unless the connection is driven.
        let listening = client.batch_execute(&statements);
        tokio::pin!(listening);
        let mut early = Vec::new();
        loop {
            tokio::select! {
                biased;
                done = &mut listening => break done.map_err(|source| failed(service, "listen", source))?,
                more = heard(service, &mut connection) => early.extend(more?),
            }
        }
        take(service, &own, &mut None, early).await;
    }
    if let Some(since) = deaf_since.take() {
        service.gaps.add(1);
        tracing::warn!(gap = ?since.elapsed(), "listening again: what was sent meanwhile did not come");
        service.health.send_replace(None);
    } else {
        tracing::info!(channels = ?service.config.channels, place = %service.server.place(), "listening");
    }
    *failures = 0;

    let mut asked = None;
    let mut quiet_since = Instant::now();
    loop {
        let due = service.checks.map(|checks| quiet_since + checks.idle);
        tokio::select! {
            biased;
            batch = heard(service, &mut connection) => {
                quiet_since = Instant::now();
                let answered = take(service, &own, &mut asked, batch?).await;
                let late = |age| service.checks.is_some_and(|checks| age >= checks.max_age);
                if answered.is_some_and(late) {
                    return Err(PgError::Deaf { place: service.server.place().to_owned() });
                }
            }
            () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                // Still unanswered after a whole idle time: nothing comes through any more.
                if asked.is_some() {
                    return Err(PgError::Deaf { place: service.server.place().to_owned() });
                }
                quiet_since = Instant::now();
                // Before it is sent: the answer may be quicker than the word that it was.
                let number = service.counts.recycled.load(Relaxed);
                asked = Some((number, Instant::now()));
                ask(service, &client, &mut connection, &own, &mut asked).await?;
            }
        }
    }
}

/// Asks the connection whether it still hears.
async fn ask(
    service: &Arc<Service>,
    client: &Client,
    connection: &mut Connection,
    own: &str,
    asked: &mut Option<(u64, Instant)>,
) -> Result<(), PgError> {
    let number = asked.map(|(number, _)| number).unwrap_or_default();
    let payload = format!(r#"{{"self_check": true, "task": "lambda: \"broker_{number}\""}}"#);
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&own, &payload];
    let sending = client.execute("SELECT pg_notify($1, $2)", &parameters);
    tokio::pin!(sending);
    loop {
        tokio::select! {
            biased;
            sent = &mut sending => {
                return sent.map(drop).map_err(|source| failed(service, "send a self-check", source));
            }
            more = heard(service, connection) => {
                take(service, own, asked, more?).await;
            }
        }
    }
}

/// Waits for notifications, and brings what there is.
///
/// # Cancel safety
/// Dropping it loses nothing: it keeps nothing over a wait.
async fn heard(service: &Arc<Service>, connection: &mut Connection) -> Result<Vec<Heard>, PgError> {
    let mut batch = Vec::new();
    poll_fn(|cx| {
        loop {
            if batch.len() == BATCH {
                return Poll::Ready(Ok(()));
            }
            match connection.poll_message(cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                    batch.push(Heard(notification));
                }
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                    tracing::info!(notice = %notice.message(), "the server says");
                }
                Poll::Ready(Some(Ok(_))) => {}
                // What came before the end still counts.
                Poll::Ready(_) | Poll::Pending if !batch.is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(source))) => return Poll::Ready(Err(failed(service, "listen", source))),
                Poll::Ready(None) => {
                    let place = service.server.place().to_owned();
                    return Poll::Ready(Err(PgError::Closed { place }));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    Ok(batch)
}

/// Takes a batch in; how old the answer to our own question is, if it was among them.
async fn take(
    service: &Arc<Service>,
    own: &str,
    asked: &mut Option<(u64, Instant)>,
    batch: Vec<Heard>,
) -> Option<Duration> {
    let mut answered = None;
    let mut messages = Vec::with_capacity(batch.len());
    let mut channel: Arc<str> = "".into();
    for heard in batch {
        if heard.0.channel() != own {
            // Most come by the same channel as the one before.
            if *channel != *heard.0.channel() {
                channel = heard.0.channel().into();
            }
            messages.push((Origin::Channel(Arc::clone(&channel)), heard));
        } else if let Some((_, at)) =
            asked.take_if(|(number, _)| heard.as_ref().contains(&format!("broker_{number}\\")))
        {
            let age = at.elapsed();
            let mut checks = service
                .counts
                .checks
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            checks.successes += 1;
            checks.total += age;
            checks.longest = checks.longest.max(age);
            answered = Some(age);
        }
    }
    service.counts.broker.fetch_add(messages.len() as u64, Relaxed);
    service.take(messages).await;
    answered
}

fn failed(service: &Service, what: &'static str, source: tokio_postgres::Error) -> PgError {
    PgError::Work {
        what,
        place: service.server.place().to_owned(),
        source,
    }
}
