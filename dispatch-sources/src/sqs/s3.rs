//! Payloads that are too large for SQS and lie in S3: the pointers of Amazon's extended client libraries.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use bytes::Bytes;
use dispatch_core::{BoxError, Delivery, Message, config::ByteSize};
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector as TcpConnector},
    rt::TokioExecutor,
};
use object_store::{
    ObjectStoreExt as _, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AwsCredential},
    client::{
        ClientOptions, CredentialProvider, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
        HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
    },
    path::Path,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::timeout};

use super::{
    client::Client,
    hold::{Held, keep},
    settler::{SqsSettler, nack, release},
    shared::Shared,
};

/// How to get payloads that lie in S3.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct S3PayloadConfig {
    /// The largest payload; a message with a larger one fails.
    pub max_size: ByteSize,
    /// Whether the object is deleted once its message is.
    pub delete: bool,
    /// Another server than Amazon's.
    pub endpoint_url: Option<String>,
}

impl Default for S3PayloadConfig {
    fn default() -> Self {
        Self {
            max_size: ByteSize(64 << 20),
            delete: false,
            endpoint_url: None,
        }
    }
}

/// How long a payload may take while its message is kept ours.
const PATIENCE: Duration = Duration::from_secs(120);

/// The attributes that mark a pointer, the present and the former one.
const MARKERS: [&str; 2] = ["ExtendedPayloadSize", "SQSLargePayloadSize"];

/// The classes that a pointer is written as, likewise.
const CLASSES: [&str; 2] = [
    "software.amazon.payloadoffloading.PayloadS3Pointer",
    "com.amazon.sqs.javamessaging.MessageS3Pointer",
];

/// Where a payload lies.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Pointer {
    #[serde(rename = "s3BucketName")]
    bucket: String,
    #[serde(rename = "s3Key")]
    key: String,
}

/// The pointer that a message is, if it is one.
fn pointer(message: &Message) -> Option<Pointer> {
    MARKERS.iter().find(|marker| message.headers().get(marker).is_some())?;
    let (class, pointer): (String, Pointer) = serde_json::from_slice(&message.payload).ok()?;
    CLASSES.contains(&class.as_str()).then_some(pointer)
}

/// Gets payloads, and deletes them if told to.
pub(super) struct Payloads {
    config: S3PayloadConfig,
    buckets: Mutex<HashMap<String, Arc<AmazonS3>>>,
    /// What lies behind the handles that are out.
    out: Mutex<HashMap<Bytes, Pointer>>,
}

impl fmt::Debug for Payloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payloads")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Payloads {
    pub(super) fn new(config: S3PayloadConfig) -> Self {
        Self {
            config,
            buckets: Mutex::default(),
            out: Mutex::default(),
        }
    }

    fn bucket(&self, client: &Client, name: &str) -> Result<Arc<AmazonS3>, BoxError> {
        let mut buckets = lock(&self.buckets);
        if let Some(bucket) = buckets.get(name) {
            return Ok(Arc::clone(bucket));
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_http_connector(Connector)
            // Each receive brings it again; here a short second try is enough.
            .with_retry(RetryConfig {
                max_retries: 2,
                retry_timeout: Duration::from_secs(20),
                ..RetryConfig::default()
            });
        if let Some(region) = client.queue.sdk.region() {
            builder = builder.with_region(region.as_ref());
        }
        if let Some(provider) = client.queue.sdk.credentials_provider() {
            builder = builder.with_credentials(Arc::new(Credentials::new(provider)));
        }
        if let Some(url) = &self.config.endpoint_url {
            builder = builder.with_endpoint(url).with_allow_http(true);
        }
        let bucket = Arc::new(builder.build()?);
        buckets.insert(name.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }

    /// Puts payloads in the place of pointers, and keeps all messages ours meanwhile. One whose payload is missing goes
    /// back; and so do all once the source closes.
    pub(super) async fn fetch_all(&self, settler: &SqsSettler, ours: Vec<Held>) -> Vec<Held> {
        let pointers: Vec<_> = ours.iter().map(|held| pointer(&held.delivery.message)).collect();
        let handles: Vec<_> = ours.iter().map(|held| held.handle().clone()).collect();
        if pointers.iter().all(Option::is_none) {
            return ours;
        }
        let shared = &settler.shared;
        let visibility = shared.config.visibility_timeout.0;
        let limit = if shared.config.heartbeat {
            PATIENCE
        } else {
            // What is handed on must still be ours for most of it.
            (visibility / 5).min(PATIENCE)
        };
        let (mut cut, mut held) = (shared.cut.subscribe(), shared.held.subscribe());
        let over = Notify::new();
        let fetch = async {
            let all = pointers
                .iter()
                .map(|pointer| self.fetch_within(shared, limit, pointer.as_ref()));
            let fetched = tokio::select! {
                biased;
                fetched = futures::future::join_all(all) => Some(fetched),
                _ = cut.wait_for(|cut| *cut) => None,
                // While the gate is closed others may have them.
                _ = held.wait_for(|held| *held) => None,
            };
            over.notify_one();
            fetched
        };
        let (fetched, ours) = if shared.config.heartbeat {
            tokio::join!(fetch, keep(settler, ours, &over))
        } else {
            (fetch.await, ours)
        };
        let Some(fetched) = fetched else {
            release(settler, ours.into_iter().map(|held| held.delivery).collect()).await;
            return Vec::new();
        };
        let mut fetched: HashMap<_, _> = handles.into_iter().zip(pointers.into_iter().zip(fetched)).collect();
        let (mut whole, mut missing) = (Vec::with_capacity(ours.len()), Vec::new());
        for mut held in ours {
            match fetched.remove(held.handle()) {
                Some((Some(pointer), Ok(Some(payload)))) => {
                    self.put(&mut held.delivery, pointer, payload);
                    whole.push(held);
                }
                Some((Some(Pointer { bucket, key }), Err(error))) => {
                    let id = held.delivery.message.id();
                    tracing::error!(%id, %bucket, %key, %error, "payload not fetched: the message comes again");
                    missing.push(held.delivery);
                }
                _ => whole.push(held),
            }
        }
        nack(settler, missing).await;
        whole
    }

    /// The payload of a message that is a pointer.
    async fn fetch_within(
        &self,
        shared: &Shared,
        limit: Duration,
        pointer: Option<&Pointer>,
    ) -> Result<Option<Bytes>, BoxError> {
        let Some(pointer) = pointer else { return Ok(None) };
        let client = shared.client().await?;
        match timeout(limit, self.fetch(&client, pointer)).await {
            Ok(fetched) => fetched.map(Some),
            Err(_) => Err(format!("not there within {limit:?}").into()),
        }
    }

    async fn fetch(&self, client: &Client, pointer: &Pointer) -> Result<Bytes, BoxError> {
        let bucket = self.bucket(client, &pointer.bucket)?;
        let found = bucket.get(&Path::parse(&pointer.key)?).await?;
        let (size, most) = (found.meta.size, self.config.max_size);
        if size > most.0 {
            return Err(format!("{size} bytes, max_size is {most}").into());
        }
        Ok(found.bytes().await?)
    }

    /// Puts the payload in the place of its pointer.
    fn put(&self, delivery: &mut Delivery, pointer: Pointer, payload: Bytes) {
        let message = &mut delivery.message;
        message.payload = payload;
        for marker in MARKERS {
            message.headers_mut().remove(marker);
            message.metadata_mut().remove(&format!("sqs_type_{marker}"));
        }
        let metadata = message.metadata_mut();
        metadata.append("sqs_s3_bucket", pointer.bucket.as_str());
        metadata.append("sqs_s3_key", pointer.key.as_str());
        if self.config.delete {
            lock(&self.out).insert(delivery.receipt.token().handle.clone(), pointer);
        }
    }

    /// A message is settled; its payload goes with it if it is done.
    pub(super) async fn settled(&self, handle: &Bytes, done: bool) {
        let pointer = lock(&self.out).remove(handle);
        let Some(pointer) = pointer.filter(|_| done) else {
            return;
        };
        let bucket = lock(&self.buckets).get(&pointer.bucket).map(Arc::clone);
        let (Some(bucket), Ok(key)) = (bucket, Path::parse(&pointer.key)) else {
            return;
        };
        if let Err(error) = bucket.delete(&key).await {
            let Pointer { bucket, key } = pointer;
            tracing::warn!(%bucket, %key, %error, "payload of a deleted message not deleted");
        }
    }
}

/// The SDK's credentials, until they expire.
#[derive(Debug)]
struct Credentials {
    provider: SharedCredentialsProvider,
    kept: tokio::sync::Mutex<Option<(Arc<AwsCredential>, SystemTime)>>,
}

impl Credentials {
    fn new(provider: SharedCredentialsProvider) -> Self {
        Self {
            provider,
            kept: tokio::sync::Mutex::default(),
        }
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = &*kept
            && SystemTime::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let fresh = self.provider.provide_credentials().await;
        let fresh = fresh.map_err(|error| object_store::Error::Generic {
            store: "S3",
            source: Box::new(error),
        })?;
        let credential = Arc::new(AwsCredential {
            key_id: fresh.access_key_id().to_owned(),
            secret_key: fresh.secret_access_key().to_owned(),
            token: fresh.session_token().map(str::to_owned),
        });
        let now = SystemTime::now();
        let until = fresh.expiry().map(|expiry| expiry - Duration::from_secs(60));
        *kept = Some((Arc::clone(&credential), until.unwrap_or(now + Duration::from_secs(300))));
        Ok(credential)
    }
}

/// Requests over hyper and ring.
#[derive(Debug)]
struct Connector;

#[derive(Debug)]
struct Service(HyperClient<HttpsConnector<TcpConnector>, HttpRequestBody>);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let generic = |source: BoxError| object_store::Error::Generic { store: "S3", source };
        let provider = rustls::crypto::ring::default_provider();
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(|error| generic(error.into()))?
            .https_or_http()
            .enable_http1()
            .build();
        let client = HyperClient::builder(TokioExecutor::new()).build(https);
        Ok(HttpClient::new(Service(client)))
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.request(request).await.map_err(|error| {
            let kind = if error.is_connect() {
                HttpErrorKind::Connect
            } else {
                HttpErrorKind::Request
            };
            HttpError::new(kind, error)
        })?;
        let body = |body: hyper::body::Incoming| {
            HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
        };
        Ok(answer.map(body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_pointer_is_one() {
        let body = |class: &str| format!(r#"["{class}",{{"s3BucketName":"b","s3Key":"k/1"}}]"#);
        let marked = |body: String| Message::new(body).header("ExtendedPayloadSize", "300000");
        let expected = Some(Pointer {
            bucket: "b".to_owned(),
            key: "k/1".to_owned(),
        });

        for class in CLASSES {
            assert_eq!(pointer(&marked(body(class))), expected, "{class}");
            assert_eq!(pointer(&Message::new(body(class))), None, "not marked");
        }
        let former = Message::new(body(CLASSES[1])).header("SQSLargePayloadSize", "1");
        assert_eq!(pointer(&former), expected);
        for other in [
            body("some.other.Class"),
            "[]".to_owned(),
            "{}".to_owned(),
            "\"x\"".to_owned(),
            String::new(),
        ] {
            assert_eq!(pointer(&marked(other.clone())), None, "{other}");
        }
    }
}
