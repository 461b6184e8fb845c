use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{
    Class, Error, Headers, HealthCheck, Message, Reply, Sink,
    config::{ConfigError, Template},
    telemetry::{self, Meter},
};
use futures::future::Either;
use http::{
    HeaderMap, StatusCode, Version,
    header::{LOCATION, RETRY_AFTER},
    response::Parts,
};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::TrySendError,
};
use tokio::time::timeout;

use super::{
    HttpSinkConfig, HttpSinkError,
    batch::Batcher,
    body::{self, Broken},
    connect::{Connection, Connector, Request},
    pool::{Loan, Origin, Origins},
    sqsd,
    statuses::Statuses,
    tls,
    wire::{self, Requests, Url},
};

/// How much of a refusing answer's body goes into the error's text, in bytes.
const EXCERPT: usize = 256;

/// How many redirects of one request are followed.
const REDIRECTS: usize = 5;

/// Sends each message to a URL and reads the answer's status. The module's page says what each answer means.
#[derive(Debug)]
pub struct HttpSink {
    caller: Arc<Caller>,
    batcher: Option<Batcher>,
    health: Option<HealthCheck>,
}

/// Makes the calls.
#[derive(Debug)]
pub(super) struct Caller {
    target: Target,
    requests: Requests,
    connector: Connector,
    statuses: Statuses,
    timeout: Option<Duration>,
    keep_alive: Duration,
    retry_after_max: Duration,
    max_response: usize,
    inactivity: Option<Duration>,
    follow_redirects: bool,
    /// Whether sqsd's convention is spoken, and whether it hands out receipt handles.
    sqsd: Option<bool>,
}

/// Where to: known from the start, or said by each message.
#[derive(Debug)]
enum Target {
    Fixed(Url, Arc<Origin>),
    FixedHost(Template, Arc<Origin>),
    PerMessage(Template, Origins),
}

impl HttpSink {
    /// Checks `config` and makes the sink; connects to nothing. Relative paths start at `base_dir`.
    ///
    /// # Errors
    /// Names the field that is wrong: the URL, a header, a status, a secret, a certificate file.
    pub fn new(config: &HttpSinkConfig, base_dir: &Path) -> Result<Self, ConfigError> {
        Self::metered(config, base_dir, &Meter::default())
    }

    /// As [`new`](Self::new), counting in `meter`; a file's sink does.
    ///
    /// # Errors
    /// As `new`.
    pub fn metered(config: &HttpSinkConfig, base_dir: &Path, meter: &Meter) -> Result<Self, ConfigError> {
        let wrong_url = |reason: String| {
            ConfigError::at("url", format!("not a URL to send to: {reason}"))
                .help("write one such as \"http://127.0.0.1:8080/work\"")
        };
        let templated_host = wire::host_is_templated(&config.url);
        let sample = Url::parse(&config.url.sample("x"));
        let target = match (config.url.as_literal(), templated_host) {
            (Some(_), _) => {
                let url = sample.clone().map_err(wrong_url)?;
                let origin = Arc::new(Origin::new(url.address.clone()));
                Target::Fixed(url, origin)
            }
            (None, false) => {
                let address = sample.clone().map_err(wrong_url)?.address;
                Target::FixedHost(config.url.clone(), Arc::new(Origin::new(address)))
            }
            (None, true) => Target::PerMessage(config.url.clone(), Origins::default()),
        };
        if cfg!(not(unix)) && config.unix_socket.is_some() {
            return Err(ConfigError::at("unix_socket", "this system has no socket files"));
        }
        // A URL that is all template may turn out to be https.
        let tls = match sample {
            Ok(url) if !url.address.https && config.url.to_string().trim_start().starts_with("http://") => None,
            _ => Some(tls::client(&config.tls, config.http_version, base_dir)?),
        };
        let batch = config.sqsd.as_ref().and_then(|sqsd| sqsd.batch);
        if batch.is_some() && !matches!(target, Target::Fixed(..)) {
            return Err(ConfigError::at(
                "url",
                "a batch goes to one URL, and this one differs from message to message",
            )
            .help("write a URL without fields, or take `batch` out of `sqsd`"));
        }
        let caller = Arc::new(Caller {
            target,
            requests: Requests::new(config, meter)?,
            connector: Connector {
                version: config.http_version,
                tls,
                unix_socket: config.unix_socket.as_ref().map(|path| base_dir.join(path)),
                connect_timeout: config.connect_timeout.0,
                guarded: templated_host && !config.allow_private && config.unix_socket.is_none(),
            },
            statuses: Statuses::new(&config.statuses, config.sqsd.as_ref())?,
            timeout: config.timeout.map(|timeout| timeout.0),
            keep_alive: config.keep_alive.0,
            retry_after_max: config.retry_after_max.0,
            max_response: config.max_response.as_usize(),
            inactivity: config.inactivity_timeout.map(|limit| limit.0),
            follow_redirects: config.follow_redirects,
            sqsd: config.sqsd.as_ref().map(|sqsd| sqsd.receipt_handle),
        });
        let health = config.health.as_ref().map(|health| health.check(config, base_dir));
        Ok(Self {
            batcher: batch.map(|batch| Batcher::new(caller.clone(), batch)),
            caller,
            health: health.transpose()?,
        })
    }
}

impl Caller {
    /// Whether workers are handed receipt handles.
    pub(super) fn tells_receipts(&self) -> bool {
        self.sqsd == Some(true)
    }

    /// Sends one message.
    async fn call_one(&self, message: &Message) -> Result<Reply, Error> {
        // In boxes: most messages go to one URL, and each send would carry the room for these.
        let rendered: Box<Url>;
        let made;
        let (mut url, origin) = match &self.target {
            Target::Fixed(url, origin) => (url, origin),
            Target::FixedHost(template, origin) => {
                rendered = Box::new(Url::render(template, message)?);
                (&*rendered, origin)
            }
            Target::PerMessage(template, origins) => {
                rendered = Box::new(Url::render(template, message)?);
                made = origins.at(rendered.address.clone(), self.keep_alive);
                (&*rendered, &made)
            }
        };
        let task = self.requests.task_url(url, message)?.map(Box::new);
        if let Some(task) = &task {
            url = task;
        }
        self.within(origin, url, &|url, headers| self.requests.of(url, message, headers))
            .await
    }

    /// How spans name where a batch goes.
    pub(super) fn place(&self) -> telemetry::Origin {
        let host = match &self.target {
            Target::Fixed(url, _) => url.address.to_string(),
            // A batch goes to one URL.
            Target::FixedHost(..) | Target::PerMessage(..) => String::new(),
        };
        telemetry::Origin::new("http", host)
    }

    /// Sends the body of a batch.
    pub(super) async fn call_batch(&self, batch: &Message) -> Result<Reply, Error> {
        match &self.target {
            Target::Fixed(url, origin) => {
                self.within(origin, url, &|url, headers| self.requests.of_batch(url, batch, headers))
                    .await
            }
            Target::FixedHost(..) | Target::PerMessage(..) => Err(Error::permanent("a batch goes to one URL")),
        }
        .map_err(|error| self.left_to_the_queue(error))
    }

    /// By sqsd's convention the queue decides when a message comes again, and its redrive policy what never works: nothing is
    /// given up on here, and a worker that is away costs no more receives than one that fails.
    fn left_to_the_queue(&self, error: Error) -> Error {
        if self.sqsd.is_some() && matches!(error.class(), Class::Permanent | Class::Unavailable) {
            error.with_class(Class::Retry)
        } else {
            error
        }
    }

    /// The exchange, within `timeout`.
    async fn within(&self, origin: &Origin, url: &Url, make: Make<'_>) -> Result<Reply, Error> {
        // In a box where there is a limit, since `timeout` of the layers is the usual place: room for both would be in
        // every send.
        match self.timeout {
            None => self.exchange(origin, url, make).await,
            Some(after) => Box::pin(timeout(after, self.exchange(origin, url, make)))
                .await
                .unwrap_or_else(|_| {
                    Err(HttpSinkError::Timeout {
                        url: url.shown.to_string(),
                        after,
                    }
                    .into())
                }),
        }
    }

    /// One request and its answer; with `follow_redirects`, up to those that lead no further.
    async fn exchange(&self, origin: &Origin, url: &Url, make: Make<'_>) -> Result<Reply, Error> {
        let answered = self.round_trip(origin, url, make).await?;
        let next = match self.follow_redirects {
            true => redirect(url, &answered.parts),
            false => None,
        };
        match next {
            Some(next) => {
                answered.keep(origin);
                Box::pin(self.follow(origin, next, make)).await
            }
            None => self.judge(origin, url, answered),
        }
    }

    /// The same request where an answer has sent it.
    async fn follow(&self, origin: &Origin, mut url: Url, make: Make<'_>) -> Result<Reply, Error> {
        let mut answered = self.round_trip(origin, &url, make).await?;
        for _ in 1..REDIRECTS {
            let Some(next) = redirect(&url, &answered.parts) else {
                break;
            };
            url = next;
            answered.keep(origin);
            answered = self.round_trip(origin, &url, make).await?;
        }
        self.judge(origin, &url, answered)
    }

    async fn round_trip(&self, origin: &Origin, url: &Url, make: Make<'_>) -> Result<Answered, Error> {
        let inactive = |after| HttpSinkError::Inactive {
            url: url.shown.to_string(),
            after,
        };
        let (response, connection) = match self.inactivity {
            None => self.call(origin, url, make).await?,
            Some(limit) => Box::pin(timeout(limit, self.call(origin, url, make)))
                .await
                .unwrap_or_else(|_| Err(inactive(limit).into()))?,
        };
        let (parts, body) = response.into_parts();
        if body.is_end_stream() {
            let answer = body::Answer::default();
            return Ok(Answered {
                parts,
                answer,
                connection,
            });
        }
        let answer = Box::pin(body::read(body, self.max_response, self.inactivity))
            .await
            .map_err(|broken| match broken {
                Broken::Inactive(limit) => inactive(limit),
                Broken::Transport(source) => HttpSinkError::Transport {
                    url: url.shown.to_string(),
                    source,
                },
            })?;
        Ok(Answered {
            parts,
            answer,
            connection,
        })
    }

    /// Writes the request on a kept connection, or on a new one if those turn out closed before a byte is sent. By sqsd's
    /// convention it is also written once more, on a new connection, where a kept one was closed before a byte came.
    async fn call(
        &self,
        origin: &Origin,
        url: &Url,
        make: Make<'_>,
    ) -> Result<(http::Response<Incoming>, Connection), Error> {
        let Some((Loan { mut connection, reused }, headers)) = origin.lend(self.keep_alive) else {
            return Box::pin(self.call_anew(origin, url, make)).await;
        };
        let request = match make(url, headers) {
            Ok(request) => request,
            Err(error) => {
                origin.keep(connection, HeaderMap::new());
                return Err(error);
            }
        };
        // As `attempt`, whose future would keep the request's room in every send.
        let before = self.received(&connection, reused);
        let error = match send(&mut connection, url, request).await {
            Ok(response) => return Ok((response, connection)),
            Err(error) => error,
        };
        let failed = Box::new(Failed {
            connection,
            reused,
            before,
            error,
        });
        Box::pin(self.call_again(origin, url, make, failed)).await
    }

    /// The same where no kept connection is ready. Whatever connects is a large future, and a rare one.
    async fn call_anew(
        &self,
        origin: &Origin,
        url: &Url,
        make: Make<'_>,
    ) -> Result<(http::Response<Incoming>, Connection), Error> {
        let request = make(url, HeaderMap::new())?;
        let loan = origin.acquire(&self.connector, self.keep_alive).await?;
        match self.attempt(loan, url, request).await {
            Ok(answered) => Ok(answered),
            Err(failed) => self.call_again(origin, url, make, failed).await,
        }
    }

    /// Goes on where a request could not be sent, or was not answered.
    async fn call_again(
        &self,
        origin: &Origin,
        url: &Url,
        make: Make<'_>,
        mut failed: Box<Failed>,
    ) -> Result<(http::Response<Incoming>, Connection), Error> {
        loop {
            let (request, loan) = match (failed.error.take_message(), failed.before) {
                (Some(unsent), _) if failed.reused => {
                    origin.forget_shared();
                    (unsent, origin.acquire(&self.connector, self.keep_alive).await?)
                }
                (None, Some(before)) if is_unanswered(&failed.connection, before) => {
                    tracing::debug!(url = %url.shown, "kept connection was closed without an answer, posting once more");
                    (make(url, HeaderMap::new())?, origin.connect(&self.connector).await?)
                }
                _ => {
                    return Err(HttpSinkError::Transport {
                        url: url.shown.to_string(),
                        source: failed.error.into_error(),
                    }
                    .into());
                }
            };
            match self.attempt(loan, url, request).await {
                Ok(answered) => return Ok(answered),
                Err(again) => failed = again,
            }
        }
    }

    /// Sends the request over this connection; without an answer, tells all that says whether it may be sent again.
    async fn attempt(
        &self,
        Loan { mut connection, reused }: Loan,
        url: &Url,
        request: Request,
    ) -> Result<(http::Response<Incoming>, Connection), Box<Failed>> {
        let before = self.received(&connection, reused);
        match send(&mut connection, url, request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(Box::new(Failed {
                connection,
                reused,
                before,
                error,
            })),
        }
    }

    /// How much has come over a kept connection, where it matters whether anything came since.
    fn received(&self, connection: &Connection, reused: bool) -> Option<u64> {
        match connection {
            Connection::Http1(kept) if reused && self.sqsd.is_some() => Some(kept.received.bytes()),
            _ => None,
        }
    }

    /// What the answer means.
    fn judge(&self, origin: &Origin, url: &Url, mut answered: Answered) -> Result<Reply, Error> {
        let body = std::mem::take(&mut answered.answer.bytes);
        let verdict = self.verdict(url, &answered, body);
        answered.keep(origin);
        Ok(verdict?)
    }

    fn verdict(
        &self,
        url: &Url,
        Answered { parts, answer, .. }: &Answered,
        body: Bytes,
    ) -> Result<Reply, HttpSinkError> {
        let after = parts.headers.get(RETRY_AFTER);
        let after = after.and_then(|asked| wire::retry_after(asked, SystemTime::now(), self.retry_after_max));
        let Some(class) = self.statuses.verdict(parts.status, after.is_some()).class(after) else {
            let mut headers = reply_headers(&parts.headers);
            if answer.cut {
                tracing::warn!(url = %url.shown, max = self.max_response, "answer is longer than max_response and was cut");
                headers.insert("dispatch-truncated", "true");
            }
            return Ok(Reply::with_headers(body, headers));
        };
        Err(HttpSinkError::Status {
            url: url.shown.to_string(),
            status: parts.status,
            class,
            excerpt: excerpt(&body),
        })
    }
}

/// A request without an answer.
struct Failed {
    connection: Connection,
    reused: bool,
    /// How much had come over the connection.
    before: Option<u64>,
    error: TrySendError<Request>,
}

/// Hands the request to the connection, in the form of its version; waits for the head of the answer.
fn send<'a>(
    connection: &'a mut Connection,
    url: &Url,
    mut request: Request,
) -> impl Future<Output = Result<http::Response<Incoming>, TrySendError<Request>>> + use<'a> {
    match connection {
        Connection::Http1(kept) => {
            if request.version() == Version::HTTP_2 {
                wire::shape(&mut request, url, Version::HTTP_11);
            }
            Either::Left(kept.sender.try_send_request(request))
        }
        Connection::Http2(sender) => {
            wire::shape(&mut request, url, Version::HTTP_2);
            Either::Right(sender.try_send_request(request))
        }
    }
}

/// A whole answer, and the connection that it came over.
#[derive(Debug)]
struct Answered {
    parts: Parts,
    answer: body::Answer,
    connection: Connection,
}

impl Answered {
    /// Keeps the connection if it can serve again.
    fn keep(self, origin: &Origin) {
        if self.answer.ended {
            origin.keep(self.connection, self.parts.headers);
        }
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        match &self.batcher {
            // A periodic task has a place and a form of its own.
            Some(batcher) if sqsd::task(&message).is_none() => Box::pin(batcher.send(message)).await,
            _ => {
                let called = self.caller.call_one(&message).await;
                called.map_err(|error| self.caller.left_to_the_queue(error))
            }
        }
    }

    fn health(&self) -> Vec<HealthCheck> {
        self.health.iter().cloned().collect()
    }

    /// Connects, with TLS where the URL says so. A host that each message names cannot be probed.
    async fn probe(&self) -> Result<(), Error> {
        let caller = &self.caller;
        match &caller.target {
            Target::Fixed(_, origin) | Target::FixedHost(_, origin) => {
                let connection = caller.connector.connect(&origin.address).await?;
                origin.keep(connection, HeaderMap::new());
                Ok(())
            }
            Target::PerMessage(..) => Ok(()),
        }
    }
}

/// Makes the request to a URL, with its headers in this empty map.
type Make<'a> = &'a (dyn Fn(&Url, HeaderMap) -> Result<Request, Error> + Sync);

/// Where an answer sends the same request, if it does and may.
fn redirect(url: &Url, parts: &Parts) -> Option<Url> {
    if !matches!(
        parts.status,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    ) {
        return None;
    }
    url.redirected(parts.headers.get(LOCATION)?.to_str().ok()?)
}

/// Whether nothing has come since there were `before` bytes.
fn is_unanswered(connection: &Connection, before: u64) -> bool {
    matches!(connection, Connection::Http1(kept) if kept.received.bytes() == before)
}

fn reply_headers(headers: &HeaderMap) -> Headers {
    headers
        .iter()
        .map(|(name, value)| (name.as_str(), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

/// How a body begins, on one line.
fn excerpt(body: &Bytes) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
    let mut line: String = text
        .trim()
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if body.len() > EXCERPT {
        line.push('…');
    }
    line
}
