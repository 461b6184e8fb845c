//! Answers as they came. The SDK signs, sends, tries again and reads errors; the body of a success is left to us, which
//! its own reader would turn into a tree of strings first.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sqs::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeDeserializationInterceptorContextMut,
    },
    error::BoxError,
    operation::receive_message::ReceiveMessageOutput,
};
use aws_smithy_runtime_api::client::{
    interceptors::context::{Output, OutputOrError},
    orchestrator::OrchestratorError,
    ser_de::{DeserializeResponse, SharedResponseDeserializer},
};

/// Keeps the body of the answer to one ReceiveMessage; what the SDK gives as its output is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Verbatim(Arc<Mutex<Vec<u8>>>);

impl Verbatim {
    /// The body of the answer, once.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Intercept for Verbatim {
    fn name(&self) -> &'static str {
        "Verbatim"
    }

    /// Takes the place of the SDK's reader where there is something else than an error to read.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().status().is_success() {
            let reader = SharedResponseDeserializer::new(self.clone());
            config.interceptor_state().store_put(reader);
        }
        Ok(())
    }
}

impl DeserializeResponse for Verbatim {
    fn deserialize_nonstreaming_with_config(&self, response: &HttpResponse, _: &ConfigBag) -> OutputOrError {
        // An attempt after one that succeeded: the SDK makes none.
        if !response.status().is_success() {
            return Err(OrchestratorError::other("an error after a success"));
        }
        let body = response.body().bytes().unwrap_or_default();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body.to_vec();
        Ok(Output::erase(ReceiveMessageOutput::builder().build()))
    }
}
