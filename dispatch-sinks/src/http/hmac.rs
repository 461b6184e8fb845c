//! A shared secret's proof in a header: HMAC-SHA256 over method, URL and body, in hexadecimal.

use dispatch_core::config::{ConfigError, Secret};
use http::{HeaderName, HeaderValue, Method};
use ring::hmac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prove each request by a shared secret: the header holds HMAC-SHA256 over `POST <url>`, a line feed and the body, in
/// hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HmacConfig {
    /// The header that carries it.
    pub header: String,
    /// The secret that the worker knows too.
    pub secret: Secret,
}

/// Proves requests under one secret.
#[derive(Debug)]
pub(super) struct Prover {
    pub(super) header: HeaderName,
    key: hmac::Key,
}

impl Prover {
    pub(super) fn new(config: &HmacConfig) -> Result<Self, ConfigError> {
        let header = config
            .header
            .parse()
            .map_err(|_| ConfigError::at("hmac.header", format!("\"{}\" is not a header's name", config.header)))?;
        if config.secret.expose().is_empty() {
            return Err(ConfigError::at("hmac.secret", "the secret is empty"));
        }
        Ok(Self {
            header,
            key: hmac::Key::new(hmac::HMAC_SHA256, config.secret.expose().as_bytes()),
        })
    }

    /// The header's value. `url` is the whole, as it was written.
    pub(super) fn prove(&self, method: &Method, url: &str, body: &[u8]) -> Option<HeaderValue> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(format!("{method} {url}\n").as_bytes());
        context.update(body);
        let digits: String = context
            .sign()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        HeaderValue::from_str(&digits).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_over_method_url_and_body() {
        let config = HmacConfig {
            header: "X-Signature".into(),
            secret: Secret::new("foobar"),
        };
        let prover = Prover::new(&config).unwrap();

        let proof = prover
            .prove(&Method::POST, "http://localhost:8080/path", b"hello")
            .unwrap();

        // printf 'POST http://localhost:8080/path\nhello' | openssl dgst -sha256 -hmac foobar
        assert_eq!(
            proof,
            "f1d1e3905d79279ca1734edcdcf4ba6489b8ebfb1806f318c31135c6bb7fa1b4"
        );
        assert!(!format!("{config:?}").contains("foobar"));
    }
}
