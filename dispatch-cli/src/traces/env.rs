//! What the environment says of traces, checked. What is right is left to the SDK, which reads it again.

use std::time::Duration;

use http::Uri;

use super::{ENDPOINTS, EXPORTER};
use crate::failure::{Failure, Result};

/// How long one request may take, unless the environment says otherwise (OpenTelemetry Protocol Exporter).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The whole URL.
    pub(super) endpoint: Uri,
    /// How long one request may take.
    pub(super) timeout: Duration,
}

/// A variable of traces alone goes before the one of all signals.
fn first<'a>(get: &impl Fn(&str) -> Option<String>, names: [&'a str; 2]) -> Option<(&'a str, String)> {
    names.into_iter().find_map(|name| Some((name, get(name)?)))
}

fn wrong(name: &str, what: &str, remedy: &str) -> Failure {
    Failure::usage(format!("{name}: {what}: {remedy}"))
}

impl Settings {
    /// Reads the variables.
    ///
    /// # Errors
    /// Names the variable that cannot be followed, and what to do. Values of headers are not shown.
    pub(super) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        if let Some(other) = get(EXPORTER).filter(|name| name != "otlp") {
            let what = format!("\"{other}\" is no exporter of traces here");
            return Err(wrong(EXPORTER, &what, "write otlp or none"));
        }
        if let Some((name, other)) = first(
            &get,
            ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
        )
        .filter(|(_, protocol)| protocol != "http/protobuf")
        {
            let what = format!("\"{other}\" is not spoken");
            let remedy = "write http/protobuf, or leave it out, and name the collector's port for HTTP, mostly 4318";
            return Err(wrong(name, &what, remedy));
        }
        if let Some((name, other)) = first(
            &get,
            [
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
                "OTEL_EXPORTER_OTLP_COMPRESSION",
            ],
        )
        .filter(|(_, compression)| compression != "none")
        {
            let what = format!("\"{other}\" is not done here");
            return Err(wrong(name, &what, "write none, or leave it out"));
        }
        for kind in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            let (own, all) = (
                format!("OTEL_EXPORTER_OTLP_TRACES_{kind}"),
                format!("OTEL_EXPORTER_OTLP_{kind}"),
            );
            if let Some((name, _)) = first(&get, [&own, &all]) {
                let remedy =
                    "leave it out; the file that SSL_CERT_FILE names is read in place of the system's authorities";
                return Err(wrong(name, "not taken", remedy));
            }
        }
        let headers = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
        if let Some((name, headers)) = first(&get, headers) {
            check_headers(name, &headers)?;
        }
        check_sampler(&get)?;
        Ok(Self {
            endpoint: endpoint(&get)?,
            timeout: timeout(&get)?,
        })
    }
}

fn endpoint(get: &impl Fn(&str) -> Option<String>) -> Result<Uri> {
    let Some((name, text)) = first(get, ENDPOINTS) else {
        return Err(Failure::usage("no collector is named"));
    };
    // The one of traces alone is taken as it is (OpenTelemetry Protocol Exporter, "Endpoint URLs for OTLP/HTTP").
    let whole = match name == ENDPOINTS[0] {
        true => text,
        false => format!("{}/v1/traces", text.trim_end_matches('/')),
    };
    let uri: Option<Uri> = whole.parse().ok();
    uri.filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")))
        .ok_or_else(|| wrong(name, "not a URL", "write one such as http://127.0.0.1:4318"))
}

fn timeout(get: &impl Fn(&str) -> Option<String>) -> Result<Duration> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
    let Some((name, text)) = first(get, names) else {
        return Ok(TIMEOUT);
    };
    match text.parse() {
        Ok(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(wrong(
            name,
            &format!("\"{text}\" is no time"),
            "write whole milliseconds, such as 10000",
        )),
    }
}

fn check_headers(name: &str, headers: &str) -> Result<()> {
    let good = |pair: &str| {
        pair.split_once('=').is_some_and(|(key, value)| {
            http::HeaderName::from_bytes(key.trim().as_bytes()).is_ok() && http::HeaderValue::from_str(value).is_ok()
        })
    };
    if headers.split(',').filter(|pair| !pair.trim().is_empty()).all(good) {
        return Ok(());
    }
    Err(wrong(
        name,
        "not a list of headers",
        "write name=value, with a comma between two",
    ))
}

fn check_sampler(get: &impl Fn(&str) -> Option<String>) -> Result<()> {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let Some(sampler) = get(SAMPLER) else {
        return Ok(());
    };
    match sampler.as_str() {
        "always_on" | "always_off" | "parentbased_always_on" | "parentbased_always_off" => Ok(()),
        "traceidratio" | "parentbased_traceidratio" => {
            let share = get(ARGUMENT).map_or(Ok(1.0), |text| text.parse::<f64>());
            match share {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(()),
                _ => Err(wrong(
                    ARGUMENT,
                    "not a share",
                    "write a number from 0 to 1, such as 0.1",
                )),
            }
        }
        other => {
            let remedy = "write always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or \
                          parentbased_traceidratio";
            Err(wrong(SAMPLER, &format!("\"{other}\" is no sampler"), remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::wanted;

    fn of(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let own = pairs.iter().find(|(own, _)| *own == name);
            own.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn the_endpoint_is_that_of_traces_or_has_their_path_added() {
        let (all, own) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        for (pairs, expected) in [
            (&[(all, "http://c:4318")][..], "http://c:4318/v1/traces"),
            (&[(all, "https://c/otlp/")], "https://c/otlp/v1/traces"),
            (&[(all, "http://c:4318"), (own, "http://d:1/x")], "http://d:1/x"),
        ] {
            let settings = Settings::read(of(pairs)).unwrap();

            assert_eq!(settings.endpoint, expected, "{pairs:?}");
        }
    }

    #[test]
    fn nothing_is_wanted_without_an_endpoint_or_where_it_is_turned_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (pairs, expected) in [
            (&[endpoint][..], true),
            (&[], false),
            (&[("OTEL_TRACES_EXPORTER", "otlp")], false),
            (&[endpoint, ("OTEL_TRACES_EXPORTER", "none")], false),
            (&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")], false),
            (&[endpoint, ("OTEL_SDK_DISABLED", "false")], true),
        ] {
            assert_eq!(wanted(of(pairs)).is_some(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_name() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=canary"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4318"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ] {
            let pairs = [
                (name, value),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
                ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ];

            let failure = Settings::read(of(&pairs)).unwrap_err();

            assert!(failure.text.starts_with(&format!("{name}: ")), "{}", failure.text);
            assert!(!failure.text.contains("canary"), "{}", failure.text);
        }
    }
}
