//! Asking a running process over HTTP.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::failure::{Failure, Result};

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the admin server is.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminArgs {
    /// The admin server of the process that is meant
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) url: String,
    /// What it wants to be shown; better in DISPATCH_TOKEN, since other users see command lines
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The words of a refusal, from the body where it has some.
    pub(crate) fn words(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let said = json.as_ref().and_then(|json| json.get("error")?.as_str());
        match said {
            Some(said) => format!("{}: {said}", self.status),
            None => self.status.to_string(),
        }
    }
}

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl AdminArgs {
    /// Asks the admin server; anything but success is a failure.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> Result<Bytes> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let ask = Ask {
            method,
            url: &url,
            token: self.token.as_deref(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let answer = ask.send().await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let hint = if answer.status == StatusCode::UNAUTHORIZED {
            "; set DISPATCH_TOKEN"
        } else {
            ""
        };
        Err(Failure::run(format!("{url} answers {}{hint}", answer.words())))
    }
}

impl Ask<'_> {
    /// Sends it over a connection of its own.
    pub(crate) async fn send(self) -> Result<Answer> {
        let url = self.url;
        let wrong = || {
            Failure::usage(format!(
                "{url} is not an address: write one such as http://127.0.0.1:9090"
            ))
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") {
            return Err(Failure::usage(format!(
                "{url}: only http:// is spoken here, on the machine itself"
            )));
        }
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(80);
        match timeout(LIMIT, self.exchange(&uri, &host, port)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::run(format!(
                "{url} did not answer within {}s",
                LIMIT.as_secs()
            ))),
        }
    }

    async fn exchange(self, uri: &Uri, host: &str, port: u16) -> Result<Answer> {
        let url = self.url;
        let broken = |error: hyper::Error| Failure::run(format!("{url} broke off: {error}"));
        let stream = TcpStream::connect((host, port)).await.map_err(|error| {
            Failure::run(format!(
                "cannot connect to {url}: {error}; is `dispatch run` at work there?"
            ))
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let connection = tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(self.method)
            .uri(path)
            .header(header::HOST, authority);
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(self.body))
            .map_err(|error| Failure::usage(format!("not a request: {error}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        Ok(Answer { status, body })
    }
}

/// A query value with everything escaped that is not plainly safe.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
