//! Traces on their way to a collector, where the environment asks for that by OpenTelemetry's variables.

#[cfg(feature = "otel")]
mod client;
#[cfg(feature = "otel")]
mod counts;
#[cfg(feature = "otel")]
mod env;
#[cfg(feature = "otel")]
mod exporter;
#[cfg(feature = "otel")]
mod tracer;

use crate::failure::Result;

/// Where to send traces; without one of the two none are made.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// `none` turns traces off.
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
/// `true` turns everything off.
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// A variable of the process; an empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().trim().to_owned();
    (!value.is_empty()).then_some(value)
}

/// Whether `get` knows somewhere to send traces to, by the name of the variable that says so, and nothing turns them off.
fn wanted(get: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let off = get(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || get(EXPORTER).is_some_and(|value| value == "none");
    ENDPOINTS.into_iter().find(|name| !off && get(name).is_some())
}

/// The traces of this process, if any are made.
#[derive(Debug)]
pub(crate) struct Traces {
    #[cfg(feature = "otel")]
    provider: Option<exporter::Provider>,
}

#[cfg(feature = "otel")]
impl Traces {
    /// Makes traces from here on, if the environment asks for them; connects to nothing yet.
    pub(crate) fn start() -> Result<Self> {
        let provider = match wanted(variable) {
            Some(_) => Some(exporter::Provider::start(&env::Settings::read(variable)?)?),
            None => None,
        };
        Ok(Self { provider })
    }

    /// Sends what is left, in a few seconds or not at all.
    pub(crate) async fn flush(self) {
        if let Some(provider) = self.provider {
            provider.flush().await;
        }
    }
}

#[cfg(not(feature = "otel"))]
impl Traces {
    /// Says that this build makes none, where the environment asks for them.
    pub(crate) fn start() -> Result<Self> {
        if let Some(variable) = wanted(variable) {
            tracing::warn!(
                variable,
                "no traces are sent, this build cannot: build dispatch-cli with `--features otel`, or with `--features full`"
            );
        }
        Ok(Self {})
    }

    /// There is nothing to send.
    pub(crate) async fn flush(self) {}
}
