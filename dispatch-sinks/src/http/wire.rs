//! From a message to a request.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dispatch_core::{
    Message,
    config::{ConfigError, Template},
    telemetry::{LeftOut, Meter},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, USER_AGENT},
};
use http_body_util::Full;

use super::{
    Auth, ForwardHeaders, HttpSinkConfig, HttpSinkError,
    connect::Request,
    hmac::Prover,
    signing::Signer,
    sqsd::{self, Convention},
    url::Url,
};

const ATTEMPT: HeaderName = HeaderName::from_static("dispatch-attempt");
const OURSELVES: HeaderValue = HeaderValue::from_static(concat!("dispatch/", env!("CARGO_PKG_VERSION")));
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// W3C Trace Context; passed on whatever `forward_headers` says.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// Headers of one connection (RFC 9110 section 7.6.1), and those that HTTP itself derives from the request.
const OF_THE_CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Everything about a request but its URL and message.
#[derive(Debug)]
pub(super) struct Requests {
    method: Method,
    bodiless: bool,
    /// What each request starts from: user agent, literal headers, credentials.
    fixed: HeaderMap,
    templated: Vec<(HeaderName, Template)>,
    forward: Forward,
    idempotency: Option<HeaderName>,
    signer: Option<Signer>,
    prover: Option<Prover>,
    convention: Option<Convention>,
    left_out: LeftOut,
}

#[derive(Debug)]
enum Forward {
    All,
    None,
    Listed(Vec<HeaderName>),
}

impl Requests {
    pub(super) fn new(config: &HttpSinkConfig, meter: &Meter) -> Result<Self, ConfigError> {
        let method = Method::from_bytes(config.method.as_bytes())
            .ok()
            .filter(|method| *method != Method::CONNECT)
            .ok_or_else(|| {
                ConfigError::at(
                    "method",
                    format!("\"{}\" is no method to send messages with", config.method),
                )
            })?;
        let mut fixed = HeaderMap::new();
        fixed.insert(USER_AGENT, OURSELVES);
        let convention = config.sqsd.as_ref().map(Convention::new).transpose()?;
        if let Some(convention) = &convention {
            convention.defaults(&mut fixed);
        }
        if let Some(auth) = &config.auth {
            fixed.insert(AUTHORIZATION, credentials(auth)?);
        }
        let mut templated = Vec::new();
        for (name, template) in &config.headers {
            let field = format!("headers.{name}");
            let header = header_name(&field, name)?;
            if OF_THE_CONNECTION.contains(&header.as_str()) && header != HOST {
                return Err(ConfigError::at(
                    field,
                    "this header belongs to the connection and cannot be set",
                ));
            }
            match template.as_literal() {
                None => templated.push((header, template.clone())),
                Some(text) => {
                    let value = HeaderValue::from_str(text)
                        .map_err(|_| ConfigError::at(field, "a header's value is one line of visible characters"))?;
                    fixed.insert(header, value);
                }
            }
        }
        let idempotency = match config.idempotency_header.as_str() {
            "off" => None,
            name => Some(header_name("idempotency_header", name)?),
        };
        let forward = match &config.forward_headers {
            // Attributes have headers of their own then.
            ForwardHeaders::All if convention.is_some() => Forward::None,
            ForwardHeaders::All => Forward::All,
            ForwardHeaders::None => Forward::None,
            ForwardHeaders::Listed(names) => Forward::Listed(
                names
                    .iter()
                    .map(|name| header_name("forward_headers", name))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Self {
            bodiless: matches!(method, Method::GET | Method::HEAD),
            method,
            fixed,
            templated,
            forward,
            idempotency,
            signer: config.signing.as_ref().map(Signer::new).transpose()?,
            prover: config.hmac.as_ref().map(Prover::new).transpose()?,
            convention,
            left_out: LeftOut::new(meter.counter(
                "dispatch_http_headers_left_out_total",
                "headers and attributes of messages that no request could carry",
            )),
        })
    }

    /// Where `message` goes instead of to `url`, where the convention has periodic tasks.
    pub(super) fn task_url(&self, url: &Url, message: &Message) -> Result<Option<Url>, HttpSinkError> {
        let task = self.convention.as_ref().and_then(|_| sqsd::task(message));
        let Some(path) = task.and_then(|task| task.path) else {
            return Ok(None);
        };
        match url.with_path(path) {
            Some(url) => Ok(Some(url)),
            None => Err(HttpSinkError::Url {
                reason: format!("the task's path {path:?} is none"),
            }),
        }
    }

    /// The request that carries `message`, in HTTP/1's form. `headers`: an empty map, to be filled.
    pub(super) fn of(&self, url: &Url, message: &Message, headers: HeaderMap) -> Result<Request, dispatch_core::Error> {
        self.make(url, message, headers, self.convention.as_ref())
    }

    /// The request whose body is a batch; it has nothing to say of any one message.
    pub(super) fn of_batch(
        &self,
        url: &Url,
        batch: &Message,
        headers: HeaderMap,
    ) -> Result<Request, dispatch_core::Error> {
        self.make(url, batch, headers, None)
    }

    fn make(
        &self,
        url: &Url,
        message: &Message,
        mut headers: HeaderMap,
        convention: Option<&Convention>,
    ) -> Result<Request, dispatch_core::Error> {
        let own = if convention.is_some() { sqsd::HEADERS } else { 0 };
        headers.reserve(self.fixed.len() + message.headers().len() + 6 + own);
        headers.insert(HOST, url.host.clone());
        self.forward(&mut headers, message);
        if !self.bodiless && !self.fixed.contains_key(CONTENT_TYPE) && !headers.contains_key(CONTENT_TYPE) {
            let content_type = message.headers().get_bytes("content-type").cloned();
            let content_type = content_type.and_then(|value| HeaderValue::from_maybe_shared(value).ok());
            headers.insert(CONTENT_TYPE, content_type.unwrap_or(BYTES));
        }
        if self.convention.is_none() {
            headers.insert(ATTEMPT, HeaderValue::from(message.attempt));
        }
        if let Some(name) = &self.idempotency {
            headers.insert(name, value(name, message.id())?);
        }
        for (name, fixed) in &self.fixed {
            headers.insert(name, fixed.clone());
        }
        for (name, template) in &self.templated {
            headers.insert(name, value(name, &template.render(message)?)?);
        }
        let body = match convention {
            _ if self.bodiless => Bytes::new(),
            Some(convention) => convention.body(message),
            None => message.payload.clone(),
        };
        if let Some(signer) = &self.signer {
            signer.sign(&mut headers, message, &body, SystemTime::now())?;
        }
        if let Some(prover) = &self.prover
            && let Some(proof) = prover.prove(&self.method, &url.text, &body)
        {
            headers.insert(&prover.header, proof);
        }
        if let Some(convention) = convention {
            convention.describe(&mut headers, message, &self.left_out);
        }

        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = url.path.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Copies the message's own headers; those that HTTP cannot carry stay behind.
    fn forward(&self, headers: &mut HeaderMap, message: &Message) {
        for (name, value) in message.headers().iter() {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                if matches!(self.forward, Forward::All) {
                    self.left_out.note(name, "its name is no HTTP header's");
                }
                continue;
            };
            let wanted = TRACE.contains(&name.as_str())
                || match &self.forward {
                    Forward::All => name != AUTHORIZATION && name != COOKIE,
                    Forward::None => false,
                    Forward::Listed(names) => names.contains(&name),
                };
            if !wanted || OF_THE_CONNECTION.contains(&name.as_str()) {
                continue;
            }
            match HeaderValue::from_maybe_shared(value.clone()) {
                Ok(value) => drop(headers.append(name, value)),
                Err(_) => self.left_out.note(name.as_str(), "its value is none of HTTP's"),
            }
        }
    }
}

/// Gives a request the form of `version`: HTTP/2 says the host in the URI, HTTP/1 in a header.
pub(super) fn shape(request: &mut Request, url: &Url, version: Version) {
    *request.version_mut() = version;
    if version == Version::HTTP_2 {
        *request.uri_mut() = url.absolute.clone();
        request.headers_mut().remove(HOST);
    } else {
        *request.uri_mut() = url.path.clone();
        request.headers_mut().insert(HOST, url.host.clone());
    }
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, ConfigError> {
    name.parse()
        .map_err(|_| ConfigError::at(field, format!("\"{name}\" is not a header's name")))
}

fn value(name: &HeaderName, text: &str) -> Result<HeaderValue, HttpSinkError> {
    HeaderValue::from_str(text).map_err(|_| HttpSinkError::Header { name: name.to_string() })
}

fn credentials(auth: &Auth) -> Result<HeaderValue, ConfigError> {
    let text: Cow<'_, str> = match auth {
        Auth::Bearer(token) => format!("Bearer {}", token.expose()).into(),
        Auth::Basic { user, .. } if user.contains(':') => {
            return Err(ConfigError::at(
                "auth.basic.user",
                "a user's name has no colon in basic authentication",
            ));
        }
        Auth::Basic { user, password } => format!(
            "Basic {}",
            BASE64_STANDARD.encode(format!("{user}:{}", password.expose()))
        )
        .into(),
    };
    let mut value = HeaderValue::from_str(&text)
        .map_err(|_| ConfigError::at("auth", "the credentials are not one line of visible characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// How long the answer asks us to wait: `Retry-After` in seconds or as an HTTP date, at most `max`.
pub(super) fn retry_after(asked: &HeaderValue, now: SystemTime, max: Duration) -> Option<Duration> {
    let text = asked.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has room for are a long wait all the same.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default()
    };
    Some(wait.min(max))
}
