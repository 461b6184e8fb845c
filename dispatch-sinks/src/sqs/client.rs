//! The SDK, set up for one queue.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, SdkConfig, environment::EnvironmentVariableRegionProvider, meta::region::ProvideRegion as _,
    profile::ProfileFileRegionProvider, timeout::TimeoutConfig,
};
use aws_sdk_sqs::config::{Credentials, Region, SharedHttpClient};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use super::{SqsSinkConfig, SqsSinkError, error::judge};

/// The SDK's client, and the queue.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) url: String,
}

impl Client {
    /// The last segment of the URL.
    pub(super) fn name(&self) -> &str {
        self.url.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// Loads credentials and region and finds the queue. `http`: a client of the caller's own.
    pub(super) async fn connect(config: &SqsSinkConfig, http: Option<SharedHttpClient>) -> Result<Self, SqsSinkError> {
        let sdk = load(config, http).await?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_millis(3_100))
            .operation_attempt_timeout(Duration::from_secs(5))
            .operation_timeout(Duration::from_secs(15))
            .build();
        let settings = aws_sdk_sqs::config::Builder::from(&sdk).timeout_config(timeouts);
        let sqs = aws_sdk_sqs::Client::from_conf(settings.build());
        let url = match (&config.queue_url, &config.queue_name) {
            (Some(url), _) => url.clone(),
            (None, name) => {
                let name = name.clone().unwrap_or_default();
                let asked = sqs.get_queue_url().queue_name(&name).send().await;
                let answer = asked.map_err(|error| judge("GetQueueUrl", &name, error))?;
                answer.queue_url.ok_or(SqsSinkError::NoQueue { queue: name })?
            }
        };
        Ok(Self { sqs, url })
    }
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

async fn load(config: &SqsSinkConfig, http: Option<SharedHttpClient>) -> Result<SdkConfig, SqsSinkError> {
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
        return Err(SqsSinkError::Setup {
            queue: config.label().to_owned(),
            message: "no region is known: set AWS_REGION, or region in the file".to_owned(),
        });
    }
    Ok(sdk)
}
