use std::time::Duration;

use aws_config::{
    BehaviorVersion, SdkConfig, environment::EnvironmentVariableRegionProvider, meta::region::ProvideRegion as _,
    profile::ProfileFileRegionProvider, stalled_stream_protection::StalledStreamProtectionConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_sqs::{
    Client,
    config::{
        Credentials, Region, SharedHttpClient, SharedInterceptor,
        retry::{RetryPartition, TokenBucket},
    },
    types::QueueAttributeName::QueueArn,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};

use crate::{
    Place, SqsError,
    agent::Agent,
    host::{endpoint_of, region_of},
    judge,
};

/// So long a connection may take; the SDK's own default.
const CONNECT: Duration = Duration::from_millis(3_100);
/// So long one try of a short request may take, and all tries of it.
const ATTEMPT: Duration = Duration::from_secs(5);
const OPERATION: Duration = Duration::from_secs(15);

/// The SDK's client, and the queue.
#[derive(Debug)]
pub struct Queue {
    /// For everything but receives, whose waits are their own.
    pub sqs: Client,
    /// The queue's URL.
    pub url: String,
    /// Credentials and region, for what else of Amazon's is asked.
    pub sdk: SdkConfig,
    /// Allows the SDK so many retries; those of all queues of a process would share one by default, and where one queue
    /// fails the others would go without.
    retries: RetryPartition,
}

impl Place<'_> {
    /// Loads credentials and region and finds the queue. `http`: a client of the caller's own.
    ///
    /// # Errors
    /// No region or credentials are known; or, for a queue of this name, of every class.
    pub async fn connect(&self, http: Option<SharedHttpClient>) -> Result<Queue, SqsError> {
        let sdk = load(self, http).await?;
        let retries = RetryPartition::custom("dispatch")
            .token_bucket(TokenBucket::default())
            .build();
        let sqs = client(&sdk, &retries, ATTEMPT, OPERATION);
        let url = match (self.queue_url, self.queue_name.unwrap_or_default()) {
            (Some(url), _) => url.to_owned(),
            (None, name) => {
                let asked = sqs.get_queue_url().queue_name(name).send().await;
                let answer = asked.map_err(|error| judge("GetQueueUrl", name, error))?;
                answer
                    .queue_url
                    .ok_or_else(|| SqsError::NoQueue { queue: name.to_owned() })?
            }
        };
        Ok(Queue { sqs, url, sdk, retries })
    }
}

impl Queue {
    /// The last segment of the URL.
    #[must_use]
    pub fn name(&self) -> &str {
        self.url.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// A client for receives that wait so long: a connection that is half dead ends, and is no more than that.
    #[must_use]
    pub fn receiver(&self, wait: Duration) -> Client {
        let attempt = (wait + Duration::from_secs(5)).max(Duration::from_secs(10));
        client(&self.sdk, &self.retries, attempt, attempt * 2)
    }

    /// Whether the queue answers. A key that may not read attributes may use the queue all the same.
    ///
    /// # Errors
    /// Of every class.
    pub async fn ask(&self) -> Result<(), SqsError> {
        let asked = self.sqs.get_queue_attributes().queue_url(&self.url);
        let answer = asked.attribute_names(QueueArn).send().await;
        match answer.map_err(|error| judge("GetQueueAttributes", self.name(), error)) {
            Err(SqsError::Denied { code, .. }) if code.starts_with("AccessDenied") => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}

fn client(sdk: &SdkConfig, retries: &RetryPartition, attempt: Duration, operation: Duration) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build();
    let settings = aws_sdk_sqs::config::Builder::from(sdk).timeout_config(timeouts);
    // A body that is held back is a long poll; the attempt has its own limit.
    let settings = settings.stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    let mut settings = settings.retry_partition(retries.clone());
    settings.push_interceptor(SharedInterceptor::permanent(Agent::new(sdk.app_name())));
    Client::from_conf(settings.build())
}

async fn load(place: &Place<'_>, http: Option<SharedHttpClient>) -> Result<SdkConfig, SqsError> {
    let http = http.unwrap_or_else(|| {
        Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https()
    });
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    let url = place.queue_url;
    let region = match place.region {
        Some(region) => Some(Region::new(region.to_owned())),
        None => match EnvironmentVariableRegionProvider::new().region().await {
            Some(region) => Some(region),
            None => match ProfileFileRegionProvider::new().region().await {
                Some(region) => Some(region),
                None => url.and_then(region_of).map(Region::new),
            },
        },
    };
    // A server that is not Amazon's has no regions, but signatures want one.
    let foreign = place.endpoint_url.is_some() || url.is_some_and(|url| endpoint_of(url).is_some());
    if let Some(region) = region.or_else(|| foreign.then(|| Region::new("us-east-1"))) {
        loader = loader.region(region);
    }
    let from_environment = ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let endpoint = place.endpoint_url.map(str::to_owned);
    let endpoint = endpoint.or_else(|| url.filter(|_| !from_environment).and_then(endpoint_of));
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let (Some(key), Some(secret)) = (place.access_key_id, place.secret_access_key) {
        let credentials = Credentials::new(key, secret.expose(), None, None, "dispatch");
        loader = loader.credentials_provider(credentials);
    }
    let sdk = loader.load().await;
    if sdk.region().is_none() {
        return Err(SqsError::Setup {
            queue: place.label().to_owned(),
            message: "no region is known: set AWS_REGION, or region in the file".to_owned(),
        });
    }
    Ok(sdk)
}
