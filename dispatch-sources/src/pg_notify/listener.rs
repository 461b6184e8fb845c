//! The connection that listens: kept for ever, made anew at once when it is lost.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use dispatch_core::Error;
use dispatch_pg_client::{Connection, PgError, Server, quoted};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::{AsyncMessage, Client, Notification};

use super::{
    heard::Heard,
    service::{Origin, Service},
};

/// How long a new connection may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// At most so many notifications are taken in at once.
const BATCH: usize = 1_000;

/// What it is among the parts.
pub(super) const NAME: &str = "listener";

/// Listens for ever: what ends the connection, and be it a panic, ends nothing but that.
pub(super) async fn run(service: Arc<Service>, server: Server) {
    let (mut failures, mut deaf_since) = (0, None);
    loop {
        let listening = listen(&service, &server, &mut failures, &mut deaf_since);
        let why = match service.parts.caught(NAME, listening).await {
            Ok(Ok(never)) => match never {},
            Ok(Err(error)) => Error::from(error).report(),
            Err(panic) => panic,
        };
        deaf_since.get_or_insert_with(Instant::now);
        service.parts.is_ill(NAME, why);
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
    server: &Server,
    failures: &mut u32,
    deaf_since: &mut Option<Instant>,
) -> Result<std::convert::Infallible, PgError> {
    let (client, mut connection) = server.connect().await?;
    let own = format!("self_check_{}", uuid::Uuid::new_v4().simple());
    let channels = service.config.channels.iter().map(String::as_str).chain([own.as_str()]);
    let statements: String = channels.map(|channel| format!("LISTEN {};", quoted(channel))).collect();
    let mut ear = Ear::new(service, server.place(), own);
    let deaf = || PgError::Deaf {
        place: server.place().to_owned(),
    };
    let listened = {
        // Nothing comes unless the connection is driven.
        let listening = timeout(PATIENCE, client.batch_execute(&statements));
        tokio::pin!(listening);
        loop {
            tokio::select! {
                biased;
                done = &mut listening => break match done {
                    Ok(done) => done.map_err(|source| failed(server.place(), "listen", source)),
                    Err(_) => Err(deaf()),
                },
                more = ear.listen(&mut connection) => if let Err(error) = more { break Err(error) },
            }
        }
    };
    ear.admit().await;
    listened?;
    if let Some(since) = deaf_since.take() {
        let gap = since.elapsed();
        service.gaps.add(1);
        service
            .gap_length
            .add(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
        tracing::warn!(?gap, "listening again: what was sent meanwhile did not come");
    } else {
        tracing::info!(channels = ?service.config.channels, place = %server.place(), "listening");
    }
    service.parts.is_well(NAME);
    *failures = 0;

    let (mut quiet_since, mut heard_at) = (Instant::now(), Instant::now());
    loop {
        let due = service.checks.map(|checks| quiet_since + checks.idle);
        tokio::select! {
            biased;
            heard = ear.listen(&mut connection) => {
                quiet_since = Instant::now();
                ear.admit().await;
                heard?;
                let late = |age| service.checks.is_some_and(|checks| age >= checks.max_age);
                if ear.answered.take().is_some_and(late) {
                    *deaf_since = Some(heard_at);
                    return Err(deaf());
                }
                heard_at = quiet_since;
            }
            () = async { match due { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                // Still unanswered after a whole idle time, or not even sent: nothing comes through any more.
                let idle = service.checks.map_or(Duration::ZERO, |checks| checks.idle);
                quiet_since = Instant::now();
                let sent = match ear.asked {
                    Some(_) => None,
                    None => timeout(idle, ear.ask(&client, &mut connection)).await.ok(),
                };
                // What came while it was sent.
                ear.admit().await;
                let Some(sent) = sent else {
                    *deaf_since = Some(heard_at);
                    return Err(deaf());
                };
                sent?;
            }
        }
    }
}

/// What one connection is listened to with.
struct Ear<'s> {
    service: &'s Arc<Service>,
    /// Which server it is.
    place: &'s str,
    heard: Heard,
    /// The channel of our questions to ourselves.
    own: String,
    /// The question that is out.
    asked: Option<(u64, Instant)>,
    /// How old the last answer was, until somebody looks.
    answered: Option<Duration>,
}

impl<'s> Ear<'s> {
    fn new(service: &'s Arc<Service>, place: &'s str, own: String) -> Self {
        Self {
            service,
            place,
            heard: Heard::of(Origin::Own),
            own,
            asked: None,
            answered: None,
        }
    }

    /// Waits for notifications, and takes in what there is.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing: what was heard is kept for [`admit`](Self::admit).
    async fn listen(&mut self, connection: &mut Connection) -> Result<(), PgError> {
        let mut count = 0;
        poll_fn(|cx| {
            loop {
                if count == BATCH {
                    return Poll::Ready(Ok(()));
                }
                match connection.poll_message(cx) {
                    // Each is read as it comes: its own memory is free again for the next.
                    Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                        self.hear(&notification);
                        count += 1;
                    }
                    Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                        tracing::info!(notice = %notice.message(), "the server says");
                    }
                    Poll::Ready(Some(Ok(_))) => {}
                    // What came before the end still counts.
                    Poll::Ready(_) | Poll::Pending if count > 0 => return Poll::Ready(Ok(())),
                    Poll::Ready(Some(Err(source))) => return Poll::Ready(Err(failed(self.place, "listen", source))),
                    Poll::Ready(None) => {
                        let place = self.place.to_owned();
                        return Poll::Ready(Err(PgError::Closed { place }));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn hear(&mut self, notification: &Notification) {
        let (channel, text) = (notification.channel(), notification.payload());
        if channel != self.own {
            self.service.counts.broker.fetch_add(1, Relaxed);
            self.heard.by_channel(channel);
            return self.heard.read(self.service, text);
        }
        let is_answer = |(number, _): &mut (u64, Instant)| text.contains(&format!("broker_{number}\\"));
        let Some((_, at)) = self.asked.take_if(is_answer) else {
            return;
        };
        let age = at.elapsed();
        let mut checks = self
            .service
            .counts
            .checks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        checks.successes += 1;
        checks.total += age;
        checks.longest = checks.longest.max(age);
        self.answered = Some(age);
    }

    /// Puts what was heard into the hall.
    async fn admit(&mut self) {
        self.heard.admit(self.service).await;
    }

    /// Asks the connection whether it still hears. What comes meanwhile is kept for [`admit`](Self::admit): this is given up on, and
    /// a task on its way into the store must not be.
    async fn ask(&mut self, client: &Client, connection: &mut Connection) -> Result<(), PgError> {
        // Before it is sent: the answer may be quicker than the word that it was.
        let number = self.service.counts.recycled.load(Relaxed);
        self.asked = Some((number, Instant::now()));
        let payload = format!(r#"{{"self_check": true, "task": "lambda: \"broker_{number}\""}}"#);
        let own = self.own.clone();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&own, &payload];
        let sending = client.execute("SELECT pg_notify($1, $2)", &parameters);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => {
                    return sent.map(drop).map_err(|source| failed(self.place, "send a self-check", source));
                }
                heard = self.listen(connection) => {
                    heard?;
                    // So soon is not late.
                    self.answered = None;
                }
            }
        }
    }
}

fn failed(place: &str, what: &'static str, source: tokio_postgres::Error) -> PgError {
    PgError::Work {
        what,
        place: place.to_owned(),
        source,
    }
}
