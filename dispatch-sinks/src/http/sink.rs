use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{
    Error, Headers, Message, Reply, Sink,
    config::{ConfigError, Template},
};
use http::{HeaderMap, Version, response::Parts};
use hyper::body::Incoming;

use super::{
    HttpSinkConfig, HttpSinkError, body,
    connect::{Connection, Connector, Request},
    pool::{Loan, Origin, Origins},
    statuses::Statuses,
    tls,
    wire::{self, Requests, Url},
};

/// How much of a refusing answer's body goes into the error's text, in bytes.
const EXCERPT: usize = 256;

/// Sends each message to a URL and reads the answer's status. The module's page says what each answer means.
#[derive(Debug)]
pub struct HttpSink {
    target: Target,
    requests: Requests,
    connector: Connector,
    statuses: Statuses,
    timeout: Option<Duration>,
    keep_alive: Duration,
    retry_after_max: Duration,
    max_response: usize,
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
        Ok(Self {
            target,
            requests: Requests::new(config)?,
            connector: Connector {
                version: config.http_version,
                tls,
                unix_socket: config.unix_socket.as_ref().map(|path| base_dir.join(path)),
                connect_timeout: config.connect_timeout.0,
                guarded: templated_host && !config.allow_private && config.unix_socket.is_none(),
            },
            statuses: Statuses::new(&config.statuses)?,
            timeout: config.timeout.map(|timeout| timeout.0),
            keep_alive: config.keep_alive.0,
            retry_after_max: config.retry_after_max.0,
            max_response: config.max_response.as_usize(),
        })
    }

    async fn exchange(&self, origin: &Origin, url: &Url, request: Request) -> Result<Reply, HttpSinkError> {
        let transport = |source| HttpSinkError::Transport {
            url: url.shown.to_string(),
            source,
        };
        let (response, connection) = self.call(origin, url, request).await?;
        let (parts, body) = response.into_parts();
        let answer = body::read(body, self.max_response).await.map_err(transport)?;
        if answer.ended {
            origin.keep(connection);
        }
        self.judge(url, &parts, answer)
    }

    /// Writes the request on a kept connection, or on a new one if those turn out closed before a byte is sent.
    async fn call(
        &self,
        origin: &Origin,
        url: &Url,
        mut request: Request,
    ) -> Result<(http::Response<Incoming>, Connection), HttpSinkError> {
        loop {
            let Loan { mut connection, reused } = origin.acquire(&self.connector, self.keep_alive).await?;
            let sent = match &mut connection {
                Connection::Http1(kept) => {
                    if request.version() == Version::HTTP_2 {
                        wire::shape(&mut request, url, Version::HTTP_11);
                    }
                    kept.sender.try_send_request(request).await
                }
                Connection::Http2(sender) => {
                    wire::shape(&mut request, url, Version::HTTP_2);
                    sender.try_send_request(request).await
                }
            };
            match sent {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        origin.forget_shared();
                        request = unsent;
                    }
                    _ => {
                        return Err(HttpSinkError::Transport {
                            url: url.shown.to_string(),
                            source: error.into_error(),
                        });
                    }
                },
            }
        }
    }

    fn judge(&self, url: &Url, parts: &Parts, answer: body::Answer) -> Result<Reply, HttpSinkError> {
        let after = wire::retry_after(&parts.headers, SystemTime::now(), self.retry_after_max);
        let Some(class) = self.statuses.verdict(parts.status).class(after) else {
            let mut headers = reply_headers(&parts.headers);
            if answer.cut {
                tracing::warn!(url = %url.shown, max = self.max_response, "answer is longer than max_response and was cut");
                headers.insert("dispatch-truncated", "true");
            }
            return Ok(Reply {
                payload: answer.bytes,
                headers,
            });
        };
        Err(HttpSinkError::Status {
            url: url.shown.to_string(),
            status: parts.status,
            class,
            excerpt: excerpt(&answer.bytes),
        })
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let rendered;
        let made;
        let (url, origin) = match &self.target {
            Target::Fixed(url, origin) => (url, origin),
            Target::FixedHost(template, origin) => {
                rendered = Url::render(template, &message)?;
                (&rendered, origin)
            }
            Target::PerMessage(template, origins) => {
                rendered = Url::render(template, &message)?;
                made = origins.at(rendered.address.clone(), self.keep_alive);
                (&rendered, &made)
            }
        };
        let request = self.requests.of(url, &message)?;
        let exchange = self.exchange(origin, url, request);
        let outcome = match self.timeout {
            None => exchange.await,
            Some(after) => tokio::time::timeout(after, exchange).await.unwrap_or_else(|_| {
                Err(HttpSinkError::Timeout {
                    url: url.shown.to_string(),
                    after,
                })
            }),
        };
        Ok(outcome?)
    }

    /// Connects, with TLS where the URL says so. A host that each message names cannot be probed.
    async fn probe(&self) -> Result<(), Error> {
        match &self.target {
            Target::Fixed(_, origin) | Target::FixedHost(_, origin) => {
                let connection = self.connector.connect(&origin.address).await?;
                origin.keep(connection);
                Ok(())
            }
            Target::PerMessage(..) => Ok(()),
        }
    }
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
