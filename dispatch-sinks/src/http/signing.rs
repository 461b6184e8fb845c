//! Signatures by Standard Webhooks (specification 1.0.0, symmetric: HMAC-SHA256).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use dispatch_core::{
    Message,
    config::{ConfigError, Secret},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use super::{HttpSinkError, SigningConfig};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Signs requests under one secret, or two while receivers change over.
#[derive(Debug)]
pub(super) struct Signer(Vec<hmac::Key>);

impl Signer {
    pub(super) fn new(config: &SigningConfig) -> Result<Self, ConfigError> {
        let mut keys = vec![key("signing.secret", &config.secret)?];
        if let Some(previous) = &config.previous_secret {
            keys.push(key("signing.previous_secret", previous)?);
        }
        Ok(Self(keys))
    }

    /// Adds the three headers. `now` is what the receiver compares with its own clock.
    pub(super) fn sign(
        &self,
        headers: &mut HeaderMap,
        message: &Message,
        body: &[u8],
        now: SystemTime,
    ) -> Result<(), HttpSinkError> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let signature = self.signature(message.id(), seconds, body);
        let text = |name: HeaderName, value: &str| match HeaderValue::from_str(value) {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(HttpSinkError::Header { name: name.to_string() }),
        };
        for (name, value) in [
            text(ID, message.id())?,
            (TIMESTAMP, HeaderValue::from(seconds)),
            text(SIGNATURE, &signature)?,
        ] {
            headers.insert(name, value);
        }
        Ok(())
    }

    fn signature(&self, id: &str, seconds: u64, body: &[u8]) -> String {
        let mut all = String::new();
        for key in &self.0 {
            let mut context = hmac::Context::with_key(key);
            context.update(format!("{id}.{seconds}.").as_bytes());
            context.update(body);
            if !all.is_empty() {
                all.push(' ');
            }
            all.push_str("v1,");
            BASE64_STANDARD.encode_string(context.sign(), &mut all);
        }
        all
    }
}

fn key(field: &str, secret: &Secret) -> Result<hmac::Key, ConfigError> {
    let text = secret.expose();
    let bytes = BASE64_STANDARD
        .decode(text.strip_prefix("whsec_").unwrap_or(text))
        .ok()
        .filter(|bytes| !bytes.is_empty())
        .ok_or_else(|| {
            ConfigError::at(field, "the secret is not base64")
                .help("write \"whsec_\" and 24 to 64 random bytes in base64, such as `openssl rand -base64 32` prints")
        })?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn signer(secret: &str, previous: Option<&str>) -> Result<Signer, ConfigError> {
        Signer::new(&SigningConfig {
            secret: Secret::new(secret),
            previous_secret: previous.map(Secret::new),
        })
    }

    #[test]
    fn the_published_vector_comes_out() {
        let message = Message::with_id("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let mut headers = HeaderMap::new();

        let now = UNIX_EPOCH + Duration::from_millis(1_614_265_330_999);
        signer(SECRET, None)
            .unwrap()
            .sign(&mut headers, &message, &message.payload, now)
            .unwrap();

        assert_eq!(headers[ID], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers[TIMESTAMP], "1614265330");
        assert_eq!(headers[SIGNATURE], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_give_two_signatures() {
        let both = signer(SECRET, Some("c2Vjb25k")).unwrap().signature("m", 1, b"x");
        let first = signer(SECRET, None).unwrap().signature("m", 1, b"x");
        let second = signer("whsec_c2Vjb25k", None).unwrap().signature("m", 1, b"x");

        assert_eq!(both, format!("{first} {second}"));
    }

    #[test]
    fn a_secret_that_is_not_base64_is_refused_without_being_printed() {
        let error = signer("whsec_canary!", None).unwrap_err();

        assert_eq!(error.field.as_deref(), Some("signing.secret"));
        assert!(!format!("{error:?}").contains("canary"));
    }
}
