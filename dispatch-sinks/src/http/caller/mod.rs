//! Calls: from a message to the sink's answer.

mod answer;
mod exchange;

use std::{path::Path, sync::Arc, time::Duration};

use dispatch_core::{
    Class, Error, Message, Reply,
    config::{ConfigError, Template},
    telemetry::{self, Meter},
};
use http::{HeaderMap, StatusCode, header::LOCATION, response::Parts};
use tokio::time::timeout;

use super::{
    HttpSinkConfig, HttpSinkError,
    connect::{Connector, Request},
    pool::{Origin, Origins},
    statuses::Statuses,
    tls,
    url::{Url, host_is_templated},
    wire::Requests,
};

/// How many redirects of one request are followed.
const REDIRECTS: usize = 5;

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

/// Makes the request to a URL, with its headers in this empty map.
type Make<'a> = &'a (dyn Fn(&Url, HeaderMap) -> Result<Request, Error> + Sync);

impl Caller {
    /// Checks `config` and makes the caller; connects to nothing.
    pub(super) fn new(config: &HttpSinkConfig, base_dir: &Path, meter: &Meter) -> Result<Self, ConfigError> {
        let wrong_url = |reason: String| {
            ConfigError::at("url", format!("not a URL to send to: {reason}"))
                .help("write one such as \"http://127.0.0.1:8080/work\"")
        };
        let templated_host = host_is_templated(&config.url);
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
        let batches = config.sqsd.as_ref().is_some_and(|sqsd| sqsd.batch.is_some());
        if batches && !matches!(target, Target::Fixed(..)) {
            return Err(ConfigError::at(
                "url",
                "a batch goes to one URL, and this one differs from message to message",
            )
            .help("write a URL without fields, or take `batch` out of `sqsd`"));
        }
        Ok(Self {
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
        })
    }

    /// Whether workers are handed receipt handles.
    pub(super) fn tells_receipts(&self) -> bool {
        self.sqsd == Some(true)
    }

    /// Sends one message.
    pub(super) async fn call_one(&self, message: &Message) -> Result<Reply, Error> {
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

    /// Connects, with TLS where the URL says so. A host that each message names cannot be probed.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        match &self.target {
            Target::Fixed(_, origin) | Target::FixedHost(_, origin) => {
                let connection = self.connector.connect(&origin.address).await?;
                origin.keep(connection, HeaderMap::new());
                Ok(())
            }
            Target::PerMessage(..) => Ok(()),
        }
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
    pub(super) fn left_to_the_queue(&self, error: Error) -> Error {
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
}

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
