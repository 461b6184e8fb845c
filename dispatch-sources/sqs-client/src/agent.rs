//! Who asks, in one header that never changes. The SDK's own is written anew for each request, from the environment, the
//! connector and the features in use, and signed: a twentieth of what a client does for a message.

use aws_runtime::user_agent::UserAgentInterceptor;
use aws_sdk_sqs::config::{AppName, ConfigBag};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut},
            disable_interceptor, dyn_dispatch_hint,
        },
        runtime_components::RuntimeComponents,
    },
};
use http::{HeaderValue, header::USER_AGENT};

/// Puts the header on each request, and takes the SDK's away.
#[derive(Debug)]
pub(crate) struct Agent(HeaderValue);

impl Agent {
    /// `app`: what the user calls the program, by `AWS_SDK_UA_APP_ID` or in the profile.
    pub(crate) fn new(app: Option<&AppName>) -> Self {
        let ourselves = concat!("dispatch/", env!("CARGO_PKG_VERSION"));
        let sdk = aws_sdk_sqs::meta::PKG_VERSION;
        let app = app.map(|name| format!(" app/{name}")).unwrap_or_default();
        let text = format!("{ourselves} aws-sdk-sqs/{sdk}{app}");
        Self(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(ourselves)))
    }
}

#[dyn_dispatch_hint]
impl Intercept for Agent {
    fn name(&self) -> &'static str {
        "Agent"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let without = disable_interceptor::<UserAgentInterceptor>("one header says it");
        config.interceptor_state().store_put(without);
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context.request_mut().headers_mut().insert(USER_AGENT, self.0.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
    };

    use dispatch_core::config::Secret;

    use super::*;
    use crate::Place;

    /// What a server reads of the first request.
    fn head(listener: &TcpListener) -> Vec<String> {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(&stream).lines().map(Result::unwrap);
        let head = lines.take_while(|line| !line.is_empty()).collect();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        head
    }

    #[tokio::test]
    async fn a_request_says_once_who_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let secret = Secret::new("secret");
        let place = Place {
            queue_url: Some("http://127.0.0.1/0/q"),
            endpoint_url: Some(&endpoint),
            access_key_id: Some("key"),
            secret_access_key: Some(&secret),
            ..Place::default()
        };
        let server = std::thread::spawn(move || head(&listener));

        let asked = place.connect(None).await.unwrap().ask().await;

        assert!(asked.is_err());
        let head = server.join().unwrap();
        let agents: Vec<_> = head.iter().filter(|line| line.contains("user-agent")).collect();
        let expected = concat!("user-agent: dispatch/", env!("CARGO_PKG_VERSION"), " aws-sdk-sqs/");
        assert!(agents.len() == 1 && agents[0].starts_with(expected), "{head:?}");
        let signed = head.iter().find(|line| line.starts_with("authorization: ")).unwrap();
        assert!(
            signed.contains("AWS4-HMAC-SHA256") && signed.contains("x-amz-target"),
            "{head:?}"
        );
    }

    #[test]
    fn an_application_says_its_name() {
        let agent = Agent::new(Some(&AppName::new("orders").unwrap()));

        assert!(agent.0.to_str().unwrap().ends_with(" app/orders"), "{agent:?}");
    }
}
