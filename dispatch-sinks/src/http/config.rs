use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use dispatch_core::{
    Sink,
    config::{BuildContext, ByteSize, ConfigError, Period, Secret, SinkConfig, Stability, Template, Verdict},
};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use super::{HealthConfig, HmacConfig, HttpSink, SqsdConfig};

/// Where and how to send.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpSinkConfig {
    /// Where to, `http://` or `https://`. Fields of the message in path and query are percent-encoded. A host made of
    /// fields may not lead to a private address unless `allow_private` says so.
    pub url: Template,
    /// The method. `GET` and `HEAD` send no body.
    #[serde(default = "defaults::method")]
    pub method: String,
    /// Headers to set, over whatever the message brings.
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// Which of the message's headers go along: all (`true`), none (`false`) or a list of names. Headers of the
    /// connection itself never do; `authorization` and `cookie` only when listed.
    #[serde(default)]
    pub forward_headers: ForwardHeaders,
    /// How long resolving, connecting and TLS may take together.
    #[serde(default = "defaults::connect_timeout")]
    pub connect_timeout: Period,
    /// How long the whole attempt may take, connecting and the answer's body included; unlimited by default, since the
    /// `timeout` layer ends attempts of any sink.
    pub timeout: Option<Period>,
    /// How long no byte of the answer may come, before its first and between any two parts; unlimited by default.
    pub inactivity_timeout: Option<Period>,
    /// How long an unused connection is kept.
    #[serde(default = "defaults::keep_alive")]
    pub keep_alive: Period,
    /// `"1"`, `"2"` (without TLS: by prior knowledge) or `"auto"` (HTTP/2 where TLS negotiates it, else 1).
    #[serde(default)]
    pub http_version: HttpVersion,
    /// Connect to this socket file; the URL then only says host header and path.
    pub unix_socket: Option<PathBuf>,
    /// Certificates for `https`.
    #[serde(default)]
    pub tls: TlsConfig,
    /// Credentials.
    pub auth: Option<Auth>,
    /// What a status means, by status (`"404"`) or hundred (`"5xx"`), over the defaults; the narrower one wins.
    #[serde(default)]
    pub statuses: BTreeMap<String, Verdict>,
    /// Follow 307 and 308, which keep method and body, within the same scheme, host and port, five times at most. Other
    /// redirects are answers like any.
    #[serde(default)]
    pub follow_redirects: bool,
    /// The longest `Retry-After` that is obeyed; longer ones count as this.
    #[serde(default = "defaults::retry_after_max")]
    pub retry_after_max: Period,
    /// The header that carries the message's id, for workers that do a thing once; `"off"` for none.
    #[serde(default = "defaults::idempotency_header")]
    pub idempotency_header: String,
    /// How much of an answer's body is kept, at most. A longer one still counts; its reply is cut there and carries
    /// the header `dispatch-truncated`.
    #[serde(default = "defaults::max_response")]
    pub max_response: ByteSize,
    /// Sign requests as Standard Webhooks does.
    pub signing: Option<SigningConfig>,
    /// Prove requests by a shared secret in a header of your own.
    pub hmac: Option<HmacConfig>,
    /// Speak to the worker as sqsd and Elastic Beanstalk do.
    pub sqsd: Option<SqsdConfig>,
    /// Receive nothing while the worker is not well.
    pub health: Option<HealthConfig>,
    /// Let a host that is made of fields of the message lead to loopback, private and link-local addresses.
    #[serde(default)]
    pub allow_private: bool,
}

mod defaults {
    use super::{ByteSize, Duration, Period};

    pub(super) fn method() -> String {
        "POST".to_owned()
    }
    pub(super) fn connect_timeout() -> Period {
        Period(Duration::from_secs(5))
    }
    pub(super) fn keep_alive() -> Period {
        Period(Duration::from_secs(60))
    }
    pub(super) fn retry_after_max() -> Period {
        Period(Duration::from_secs(300))
    }
    pub(super) fn idempotency_header() -> String {
        "Idempotency-Key".to_owned()
    }
    pub(super) fn max_response() -> ByteSize {
        ByteSize(1 << 20)
    }
}

impl HttpSinkConfig {
    /// POST to `url`, everything else by default.
    #[must_use]
    pub fn new(url: Template) -> Self {
        Self {
            url,
            method: defaults::method(),
            headers: BTreeMap::new(),
            forward_headers: ForwardHeaders::default(),
            connect_timeout: defaults::connect_timeout(),
            timeout: None,
            inactivity_timeout: None,
            keep_alive: defaults::keep_alive(),
            http_version: HttpVersion::default(),
            unix_socket: None,
            tls: TlsConfig::default(),
            auth: None,
            statuses: BTreeMap::new(),
            follow_redirects: false,
            retry_after_max: defaults::retry_after_max(),
            idempotency_header: defaults::idempotency_header(),
            max_response: defaults::max_response(),
            signing: None,
            hmac: None,
            sqsd: None,
            health: None,
            allow_private: false,
        }
    }
}

impl SinkConfig for HttpSinkConfig {
    const TYPE: &'static str = "http";
    const SUMMARY: &'static str = "sends each message to a URL and reads the status";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, context: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(HttpSink::metered(&self, &context.base_dir, &context.meter)?))
    }
}

/// Which HTTP to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[serde(rename = "1")]
    One,
    /// HTTP/2; without TLS by prior knowledge.
    #[serde(rename = "2")]
    Two,
    /// HTTP/2 where TLS negotiates it, else HTTP/1.1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
}

/// Certificates for `https`; the system's own roots are always trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// PEM file of further roots to trust.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of our private key.
    pub key_file: Option<PathBuf>,
}

/// Credentials for the `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Auth {
    /// `Authorization: Bearer …`
    Bearer(Secret),
    /// `Authorization: Basic …`
    Basic {
        /// The user's name, without a colon.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// Standard Webhooks signatures: `webhook-id`, `webhook-timestamp` and `webhook-signature`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigningConfig {
    /// The secret, `whsec_` and base64.
    pub secret: Secret,
    /// The secret before it, while receivers change over: requests carry a signature by each.
    pub previous_secret: Option<Secret>,
}

/// Which of the message's headers go along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ForwardHeaders {
    /// All, but those of the connection, `authorization` and `cookie`.
    #[default]
    All,
    /// None.
    None,
    /// These, but never those of the connection.
    Listed(Vec<String>),
}

impl Serialize for ForwardHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_bool(true),
            Self::None => serializer.serialize_bool(false),
            Self::Listed(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ForwardHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrList;
        impl<'de> Visitor<'de> for BoolOrList {
            type Value = ForwardHeaders;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a list of header names")
            }
            fn visit_bool<E>(self, all: bool) -> Result<ForwardHeaders, E> {
                Ok(if all { ForwardHeaders::All } else { ForwardHeaders::None })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<ForwardHeaders, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(ForwardHeaders::Listed)
            }
        }
        deserializer.deserialize_any(BoolOrList)
    }
}

impl JsonSchema for ForwardHeaders {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ForwardHeaders".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "which of the message's headers go along: all, none or those listed",
            "oneOf": [{ "type": "boolean" }, { "type": "array", "items": { "type": "string" } }]
        })
    }
}
