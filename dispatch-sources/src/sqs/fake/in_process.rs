//! The SDK's way in without a socket, so that a paused clock pauses everything.

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;

use super::{Fake, wire::Answer};

#[derive(Debug)]
struct Connector(Fake);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let fake = self.0.clone();
        HttpConnectorFuture::new(async move {
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            let body = request.body().bytes().unwrap_or_default();
            let reset = || ConnectorError::io("connection reset".into());
            match fake.call(target, body).await {
                Answer::Reset => Err(reset()),
                Answer::Http { status, headers, body } => {
                    let mut answer = http::Response::builder().status(status);
                    for (name, value) in headers {
                        answer = answer.header(name, value);
                    }
                    let answer = answer.body(SdkBody::from(body)).map_err(|_| reset())?;
                    answer.try_into().map_err(|_| reset())
                }
            }
        })
    }
}

impl Fake {
    /// A client for the SDK's `http_client`, which reaches this one without a socket.
    #[must_use]
    pub fn http_client(&self) -> SharedHttpClient {
        let connector = SharedHttpConnector::new(Connector(self.clone()));
        http_client_fn(move |_, _| connector.clone())
    }
}
