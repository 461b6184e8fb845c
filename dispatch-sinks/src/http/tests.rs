use std::{collections::BTreeMap, time::Duration};

use dispatch_core::{Class, Classify as _, Message, config::Template, telemetry::Meter};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{
    ForwardHeaders, HttpSink, HttpSinkConfig, HttpSinkError, Verdict,
    statuses::Statuses,
    url::{Url, host_is_templated},
    wire::{Requests, retry_after},
};

fn config(url: &str) -> HttpSinkConfig {
    HttpSinkConfig::new(url.parse().unwrap())
}

#[test]
fn every_status_has_a_verdict() {
    let statuses = Statuses::default();

    for number in 100..=999 {
        let expected = match number {
            200..=299 => Verdict::Success,
            401 | 407 => Verdict::Unavailable,
            408 | 425 => Verdict::Retry,
            429 | 503 => Verdict::Throttled,
            100..=499 => Verdict::Permanent,
            _ => Verdict::Retry,
        };
        assert_eq!(
            statuses.verdict(StatusCode::from_u16(number).unwrap(), false),
            expected,
            "{number}"
        );
    }
}

#[test]
fn the_users_table_stands_over_the_defaults_and_the_narrower_entry_wins() {
    let table = [
        ("404", Verdict::Success),
        ("4xx", Verdict::Retry),
        ("503", Verdict::Permanent),
        ("5xx", Verdict::Unavailable),
        ("2xx", Verdict::Throttled),
    ];
    let table: BTreeMap<String, Verdict> = table.map(|(name, verdict)| (name.to_owned(), verdict)).into();
    let statuses = Statuses::new(&table, None).unwrap();

    for number in 100..=599 {
        let expected = match number {
            404 => Verdict::Success,
            400..=499 => Verdict::Retry,
            503 => Verdict::Permanent,
            500..=599 => Verdict::Unavailable,
            200..=299 => Verdict::Throttled,
            _ => Verdict::Permanent,
        };
        assert_eq!(
            statuses.verdict(StatusCode::from_u16(number).unwrap(), false),
            expected,
            "{number}"
        );
    }
}

#[test]
fn names_that_are_no_status_are_refused() {
    for name in ["40x", "xx", "0xx", "4XX", "99", "1000", "ok", "10xx"] {
        let table = BTreeMap::from([(name.to_owned(), Verdict::Retry)]);

        let error = Statuses::new(&table, None).unwrap_err();

        assert_eq!(error.field, Some(format!("statuses.{name}")));
    }
}

#[test]
fn every_failure_has_its_class_and_code() {
    let url = || "http://h/".to_owned();
    let io = || std::io::Error::other("x");
    let address = "10.0.0.1".parse().unwrap();
    for (error, class, code) in [
        (
            HttpSinkError::Status {
                url: url(),
                status: StatusCode::CONFLICT,
                class: Class::Permanent,
                excerpt: String::new(),
            },
            Class::Permanent,
            "409",
        ),
        (
            HttpSinkError::Connect {
                target: url(),
                source: io(),
            },
            Class::Unavailable,
            "connect",
        ),
        (
            HttpSinkError::ConnectTimeout {
                target: url(),
                after: Duration::ZERO,
            },
            Class::Unavailable,
            "connect",
        ),
        (
            HttpSinkError::Resolve {
                host: url(),
                source: io(),
            },
            Class::Unavailable,
            "dns",
        ),
        (
            HttpSinkError::Tls {
                target: url(),
                source: io(),
            },
            Class::Unavailable,
            "tls",
        ),
        (
            HttpSinkError::Timeout {
                url: url(),
                after: Duration::ZERO,
            },
            Class::Retry,
            "timeout",
        ),
        (
            HttpSinkError::PrivateAddress { host: url(), address },
            Class::Permanent,
            "private_address",
        ),
        (HttpSinkError::Url { reason: url() }, Class::Permanent, "url"),
        (HttpSinkError::Header { name: url() }, Class::Permanent, "header"),
    ] {
        assert_eq!((error.class(), error.code().as_deref()), (class, Some(code)), "{error}");
    }
}

#[test]
fn retry_after_is_read_in_both_forms_and_capped() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (text, expected) in [
        ("0", seconds(0)),
        ("120", seconds(120)),
        ("301", seconds(300)),
        ("99999999999999999999999", seconds(300)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", seconds(60)),
        ("Sunday, 06-Nov-94 08:50:37 GMT", seconds(60)),
        ("Sun, 06 Nov 1994 07:00:00 GMT", seconds(0)),
        ("Sat, 06 Nov 2094 08:49:37 GMT", seconds(300)),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
    ] {
        let asked = HeaderValue::from_static(text);
        assert_eq!(retry_after(&asked, now, Duration::from_secs(300)), expected, "{text}");
    }
}

#[test]
fn fields_stay_inside_their_place_in_the_url() {
    let message = Message::with_id("a/../b?c=d#e f", "")
        .header("host", "example.com")
        .header("path", "x/y");
    for (template, shown, whole) in [
        (
            "http://h/{{ id }}",
            "http://h/a%2F..%2Fb%3Fc%3Dd%23e%20f",
            "http://h/a%2F..%2Fb%3Fc%3Dd%23e%20f",
        ),
        (
            "http://h:81/x?p={{ header:path }}",
            "http://h:81/x",
            "http://h:81/x?p=x%2Fy",
        ),
        ("http://h?p={{ header:path }}", "http://h/", "http://h/?p=x%2Fy"),
        (
            "http://{{ header:host }}/{{ header:path }}",
            "http://example.com/x%2Fy",
            "http://example.com/x%2Fy",
        ),
    ] {
        let template: Template = template.parse().unwrap();

        let url = Url::render(&template, &message).unwrap();

        assert_eq!(
            (&*url.shown, url.absolute.to_string().as_str()),
            (shown, whole),
            "{template}"
        );
    }
}

#[test]
fn a_host_made_of_fields_is_noticed() {
    for (template, templated) in [
        ("http://h/{{ id }}", false),
        ("http://h?x={{ id }}", false),
        ("http://h:80/", false),
        ("http://{{ key }}/", true),
        ("http://h.{{ key }}", true),
        ("http://h:{{ key }}/", true),
        ("{{ key }}", true),
        ("http{{ key }}://h/", true),
        ("http://{{ key }}@h/", true),
    ] {
        assert_eq!(host_is_templated(&template.parse().unwrap()), templated, "{template}");
    }
}

#[test]
fn headers_of_the_message_go_along_but_not_those_of_the_connection() {
    let message = Message::with_id("m1", "x")
        .header("content-type", "text/plain")
        .header("Connection", "close")
        .header("Transfer-Encoding", "chunked")
        .header("authorization", "theirs")
        .header("x-tag", "a")
        .header("x-tag", "b")
        .header("not a name", "x")
        .header("x-bad", "line\nbreak")
        .header("traceparent", "00-1-2-01");
    let url = Url::parse("http://h:1/p").unwrap();
    let headers = |forward| {
        let mut config = config("http://h:1/p");
        config.forward_headers = forward;
        let request = Requests::new(&config, &Meter::default())
            .unwrap()
            .of(&url, &message, HeaderMap::new())
            .unwrap();
        let mut lines: Vec<String> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .filter(|line| !line.starts_with("user-agent: dispatch/"))
            .collect();
        lines.sort();
        lines
    };
    let ours = [
        "dispatch-attempt: 1",
        "host: h:1",
        "idempotency-key: m1",
        "traceparent: 00-1-2-01",
    ];
    let with = |more: &[&str]| {
        let mut lines: Vec<String> = ours.iter().chain(more).map(|line| (*line).to_owned()).collect();
        lines.sort();
        lines
    };

    let listed = ForwardHeaders::Listed(vec!["Authorization".into(), "connection".into()]);
    assert_eq!(
        headers(ForwardHeaders::All),
        with(&["content-type: text/plain", "x-tag: a", "x-tag: b"])
    );
    assert_eq!(headers(ForwardHeaders::None), with(&["content-type: text/plain"]));
    assert_eq!(
        headers(listed),
        with(&["authorization: theirs", "content-type: text/plain"])
    );
}

#[test]
fn our_settings_stand_over_the_messages_headers() {
    let mut config = config("http://h/");
    config.headers.insert("x-tenant".into(), "{{ key }}".parse().unwrap());
    config
        .headers
        .insert("content-type".into(), "application/json".parse().unwrap());
    config.auth = Some(super::Auth::Basic {
        user: "u".into(),
        password: dispatch_core::config::Secret::new("p"),
    });
    config.idempotency_header = "off".into();
    let message = Message::new("x")
        .with_key("a7")
        .header("x-tenant", "forged")
        .header("content-type", "text/plain");

    let request = Requests::new(&config, &Meter::default())
        .unwrap()
        .of(&Url::parse("http://h/").unwrap(), &message, HeaderMap::new())
        .unwrap();

    assert_eq!(request.headers()["x-tenant"], "a7");
    assert_eq!(request.headers()["content-type"], "application/json");
    assert_eq!(request.headers()["authorization"], "Basic dTpw");
    assert!(!request.headers().contains_key("idempotency-key"));
    assert!(!format!("{request:?}").contains("dTpw"));
}

#[test]
fn a_value_that_would_break_the_header_is_permanent() {
    let mut config = config("http://h/");
    config.headers.insert("x-tenant".into(), "{{ key }}".parse().unwrap());
    let message = Message::new("x").with_key("a\r\nx-admin: 1");

    let error = Requests::new(&config, &Meter::default())
        .unwrap()
        .of(&Url::parse("http://h/").unwrap(), &message, HeaderMap::new())
        .unwrap_err();

    assert_eq!(
        (error.class(), error.code().map(|code| code.as_str())),
        (Class::Permanent, Some("header"))
    );
}

#[test]
fn mistakes_name_their_field() {
    fn set(change: impl Fn(&mut HttpSinkConfig)) -> HttpSinkConfig {
        let mut config = config("http://h/");
        change(&mut config);
        config
    }
    for (config, field) in [
        (config("ftp://h/"), "url"),
        (config("h:80/work"), "url"),
        (config("http://u:p@h/"), "url"),
        (set(|config| config.method = "P ST".into()), "method"),
        (
            set(|config| drop(config.headers.insert("a b".into(), Template::literal("x")))),
            "headers.a b",
        ),
        (
            set(|config| drop(config.headers.insert("te".into(), Template::literal("x")))),
            "headers.te",
        ),
        (
            set(|config| drop(config.headers.insert("x".into(), Template::literal("a\nb")))),
            "headers.x",
        ),
        (
            set(|config| config.idempotency_header = String::new()),
            "idempotency_header",
        ),
    ] {
        let error = HttpSink::new(&config, ".".as_ref()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{error}");
    }

    let mut config = config("https://h/");
    config.tls.ca_file = Some("does-not-exist.pem".into());
    let error = HttpSink::new(&config, ".".as_ref()).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("tls.ca_file"));
}

#[test]
fn the_configuration_reads_as_documented() {
    let config: HttpSinkConfig = toml::from_str(
        r#"
        url = "http://{{ header:region }}.example/work"
        forward_headers = ["x-tag"]
        http_version = "2"
        timeout = "30s"
        auth = { bearer = "canary" }
        statuses = { "404" = "permanent", "5xx" = "retry", "409" = "success" }
        signing = { secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }
        "#,
    )
    .unwrap();

    assert_eq!(config.forward_headers, ForwardHeaders::Listed(vec!["x-tag".into()]));
    assert!(!format!("{config:?}{}", toml::to_string(&config).unwrap()).contains("canary"));
    HttpSink::new(&config, ".".as_ref()).unwrap();
}

/// Every send in flight takes that much, and what is larger than a page or two is slow to get and to give back: what
/// connects, follows or gathers stands in boxes of its own.
#[tokio::test]
async fn a_send_in_flight_stays_small() {
    let mut config = config("http://127.0.0.1:1/");
    config.timeout = Some(dispatch_core::config::Period(Duration::from_secs(1)));
    config.inactivity_timeout = config.timeout;
    config.sqsd = Some(super::SqsdConfig::default());
    let sink = HttpSink::new(&config, ".".as_ref()).unwrap();

    let send = dispatch_core::Sink::send(&sink, Message::new("x"));

    assert!(
        size_of_val(&*send) <= 1_000,
        "a send takes {} bytes",
        size_of_val(&*send)
    );
}
