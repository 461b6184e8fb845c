use dispatch_core::config::{ConfigError, Secret};

/// Which queue is meant, and who asks: what the keys of a source's or a sink's table say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// The queue's URL; this or `queue_name`.
    pub queue_url: Option<&'a str>,
    /// The queue's name, in the account of the credentials.
    pub queue_name: Option<&'a str>,
    /// The region; by default that of the environment or the profile, else that of the queue's URL.
    pub region: Option<&'a str>,
    /// Another server than Amazon's; by default the host of the queue's URL where that is not Amazon's.
    pub endpoint_url: Option<&'a str>,
    /// An access key, where the default chain of credentials is not meant.
    pub access_key_id: Option<&'a str>,
    /// Its secret.
    pub secret_access_key: Option<&'a Secret>,
}

impl<'a> Place<'a> {
    /// The queue as the file names it.
    #[must_use]
    pub fn label(&self) -> &'a str {
        self.queue_url.or(self.queue_name).unwrap_or_default()
    }

    /// The queue's name, without the rest of its URL.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.label()
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default()
    }

    /// Whether the queue is a FIFO queue: its name says so.
    #[must_use]
    pub fn is_fifo(&self) -> bool {
        self.label().trim_end_matches('/').ends_with(".fifo")
    }

    /// Whether it can be meant: one queue, URLs that are some, and a secret beside its key.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        match (self.queue_url, self.queue_name) {
            (Some(url), None) => check_url("queue_url", url)?,
            (None, Some("")) => return Err(ConfigError::at("queue_name", "the queue has no name")),
            (None, Some(_)) => {}
            (None, None) => {
                return Err(ConfigError::at("queue_url", "no queue is named")
                    .help("write queue_url = \"https://sqs.eu-west-1.amazonaws.com/123456789012/orders\", or queue_name = \"orders\""));
            }
            (Some(_), Some(_)) => {
                return Err(
                    ConfigError::at("queue_name", "the queue is named twice").help("leave queue_name or queue_url out")
                );
            }
        }
        if let Some(url) = self.endpoint_url {
            check_url("endpoint_url", url)?;
        }
        match (self.access_key_id, self.secret_access_key) {
            (Some(_), None) => {
                let words = "access_key_id has no secret beside it";
                Err(ConfigError::at("secret_access_key", words).help("write both, or neither for the default chain"))
            }
            (None, Some(_)) => {
                let words = "secret_access_key has no key beside it";
                Err(ConfigError::at("access_key_id", words).help("write both, or neither for the default chain"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether this is a URL of a server.
///
/// # Errors
/// Names `field`.
pub fn check_url(field: &str, url: &str) -> Result<(), ConfigError> {
    let uri: Option<http::Uri> = url.parse().ok();
    let whole = uri.is_some_and(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
    if whole {
        return Ok(());
    }
    Err(ConfigError::at(field, format!("\"{url}\" is not a URL"))
        .help("write one such as \"https://sqs.eu-west-1.amazonaws.com/123456789012/orders\""))
}
