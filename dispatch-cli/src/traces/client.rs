//! Carries requests to the collector, on the thread that makes them: the messages' own have other things to do.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::runtime::Runtime;

use super::env::Settings;
use crate::failure::{Failure, Result};

/// The most of an answer that is read, in bytes.
const LARGEST: usize = 1 << 20;

/// Why the latest request got no answer, in words that the exporter does not keep.
pub(super) type Trouble = Arc<Mutex<Option<String>>>;

/// Sends requests one after the other, over a kept connection.
#[derive(Debug)]
pub(super) struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Turns only while a request is under way.
    runtime: Option<Runtime>,
    timeout: Duration,
    trouble: Trouble,
}

impl Sender {
    /// Connects to nothing yet; the reason of each failure goes to `trouble`.
    pub(super) fn new(settings: &Settings, trouble: Trouble) -> Result<Self> {
        let cannot = |error: &dyn std::fmt::Display| Failure::run(format!("cannot send traces: {error}"));
        let builder = HttpsConnectorBuilder::new();
        let builder = if settings.endpoint.scheme_str() == Some("https") {
            builder
                .with_provider_and_native_roots(ring::default_provider())
                .map_err(|error| cannot(&error))?
        } else {
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| cannot(&error))?;
            builder.with_tls_config(
                config
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth(),
            )
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| cannot(&error))?;
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(builder.https_or_http().enable_http1().build()),
            runtime: Some(runtime),
            timeout: settings.timeout,
            trouble,
        })
    }

    async fn send(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let response = self.client.request(request.map(Full::new)).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.timeout).into()),
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let Some(runtime) = &self.runtime else {
            return Err("ended".into());
        };
        // The thread is the exporter's own and waits for nothing else.
        let answer = runtime.block_on(self.send(request));
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = answer.as_ref().err().map(|error| {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        });
        answer
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Whoever drops it may be async, where a runtime must not wait for its end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
