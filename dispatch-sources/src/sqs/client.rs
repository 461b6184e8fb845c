//! The SDK, set up for one queue.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, SdkConfig, environment::EnvironmentVariableRegionProvider, meta::region::ProvideRegion as _,
    profile::ProfileFileRegionProvider, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_sqs::config::{Credentials, Region, SharedHttpClient};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use bytes::Bytes;

use super::{SqsSourceConfig, SqsSourceError, config::IDLE_WAIT, error::judge, wire::Origin};

/// The SDK's client, and the queue.
#[derive(Debug)]
pub(super) struct Client {
    /// For everything but receives.
    pub(super) sqs: aws_sdk_sqs::Client,
    /// For receives while there is work, and while there is none: their waits differ, and so do their limits.
    busy: aws_sdk_sqs::Client,
    idle: aws_sdk_sqs::Client,
    pub(super) url: String,
    /// The queue as each message names it.
    pub(super) origin: Origin,
    /// Credentials and region, for what else of Amazon's is asked.
    #[cfg(feature = "sqs-s3")]
    pub(super) sdk: SdkConfig,
}

impl Client {
    pub(super) const fn receiver(&self, wait: Duration) -> &aws_sdk_sqs::Client {
        if wait.as_secs() == IDLE_WAIT.as_secs() {
            &self.idle
        } else {
            &self.busy
        }
    }

    /// The last segment of the URL.
    pub(super) fn name(&self) -> &str {
        last_segment(&self.url)
    }

    /// Loads credentials and region and finds the queue. `http`: a client of the caller's own.
    pub(super) async fn connect(
        config: &SqsSourceConfig,
        http: Option<SharedHttpClient>,
    ) -> Result<Self, SqsSourceError> {
        let sdk = load(config, http).await?;
        let with = |attempt: Duration, operation: Duration| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(Duration::from_millis(3_100))
                .operation_attempt_timeout(attempt)
                .operation_timeout(operation)
                .build();
            let settings = aws_sdk_sqs::config::Builder::from(&sdk).timeout_config(timeouts);
            // A body that is held back is a long poll; the attempt has its own limit.
            let settings = settings.stalled_stream_protection(StalledStreamProtectionConfig::disabled());
            aws_sdk_sqs::Client::from_conf(settings.build())
        };
        let receiver = |wait: Duration| {
            let attempt = (wait + Duration::from_secs(5)).max(Duration::from_secs(10));
            with(attempt, attempt * 2)
        };
        let sqs = with(Duration::from_secs(5), Duration::from_secs(15));
        let url = match (&config.queue_url, &config.queue_name) {
            (Some(url), _) => url.clone(),
            (None, name) => {
                let name = name.clone().unwrap_or_default();
                let asked = sqs.get_queue_url().queue_name(&name).send().await;
                let answer = asked.map_err(|error| judge("GetQueueUrl", &name, error))?;
                answer.queue_url.ok_or(SqsSourceError::NoQueue {
                    queue: name,
                    hint: String::new(),
                })?
            }
        };
        Ok(Self {
            sqs,
            busy: receiver(config.wait_time.0),
            idle: receiver(IDLE_WAIT),
            origin: Origin {
                url: Bytes::copy_from_slice(url.as_bytes()),
                name: Bytes::copy_from_slice(last_segment(&url).as_bytes()),
                fifo: config.is_fifo(),
            },
            url,
            #[cfg(feature = "sqs-s3")]
            sdk,
        })
    }
}

fn last_segment(url: &str) -> &str {
    url.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Amazon's hosts hold their region.
fn region_of(url: &str) -> Option<Region> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?;
    let amazon = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let region = match amazon.split('.').collect::<Vec<_>>()[..] {
        ["sqs" | "sqs-fips", region] | [region, "queue"] => region,
        ["queue"] => "us-east-1",
        _ => return None,
    };
    Some(Region::new(region.to_owned()))
}

/// Where a queue lives whose URL is not Amazon's.
fn endpoint_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?;
    let amazon = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"]
        .iter()
        .any(|end| host.ends_with(end));
    (!amazon).then(|| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)))?
}

async fn load(config: &SqsSourceConfig, http: Option<SharedHttpClient>) -> Result<SdkConfig, SqsSourceError> {
    let http = http.unwrap_or_else(|| {
        Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https()
    });
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    let url = config.queue_url.as_deref();
    let region = match &config.region {
        Some(region) => Some(Region::new(region.clone())),
        None => match EnvironmentVariableRegionProvider::new().region().await {
            Some(region) => Some(region),
            None => match ProfileFileRegionProvider::new().region().await {
                Some(region) => Some(region),
                None => url.and_then(region_of),
            },
        },
    };
    // A server that is not Amazon's has no regions, but signatures want one.
    let foreign = config.endpoint_url.is_some() || url.is_some_and(|url| endpoint_of(url).is_some());
    if let Some(region) = region.or_else(|| foreign.then(|| Region::new("us-east-1"))) {
        loader = loader.region(region);
    }
    let from_environment = ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let endpoint = config.endpoint_url.clone();
    let endpoint = endpoint.or_else(|| url.filter(|_| !from_environment).and_then(endpoint_of));
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let (Some(key), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        let credentials = Credentials::new(key, secret.expose(), None, None, "dispatch");
        loader = loader.credentials_provider(credentials);
    }
    let sdk = loader.load().await;
    if sdk.region().is_none() {
        return Err(SqsSourceError::Setup {
            queue: url.or(config.queue_name.as_deref()).unwrap_or_default().to_owned(),
            message: "no region is known: set AWS_REGION, or region in the file".to_owned(),
        });
    }
    Ok(sdk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_url_says_its_region_or_its_endpoint() {
        let region = |url| region_of(url).map(|region| region.to_string());
        let table = [
            ("https://sqs.eu-west-1.amazonaws.com/1/q", Some("eu-west-1"), None),
            ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", Some("cn-north-1"), None),
            ("https://eu-west-2.queue.amazonaws.com/1/q", Some("eu-west-2"), None),
            ("https://queue.amazonaws.com/1/q", Some("us-east-1"), None),
            ("http://127.0.0.1:9324/000/q", None, Some("http://127.0.0.1:9324")),
        ];
        for (url, expected, endpoint) in table {
            assert_eq!(region(url).as_deref(), expected, "{url}");
            assert_eq!(endpoint_of(url).as_deref(), endpoint, "{url}");
        }
    }
}
