use dispatch_core::{config::ByteSize, telemetry::Counter, testing::Logs};

use super::{page::size, *};

fn described(change: impl FnOnce(&mut SqsdConfig), message: &Message) -> HeaderMap {
    let mut config = SqsdConfig::default();
    change(&mut config);
    let convention = Convention::new(&config).unwrap();
    let mut headers = HeaderMap::new();
    convention.defaults(&mut headers);
    convention.describe(&mut headers, message, &LeftOut::default());
    headers
}

fn counted() -> (LeftOut, Counter) {
    let counter = Counter::default();
    (LeftOut::new(counter.clone()), counter)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn a_message_is_described_as_the_daemon_does() {
    let message = Message::with_id("m-1", "{}")
        .meta("sqs_message_id", "m-1")
        .meta("sqs_queue_name", "jobs")
        .meta("sqs_approximate_first_receive_timestamp", "1763800000999")
        .meta("sqs_sent_timestamp", "1763799999000")
        .meta("sqs_approximate_receive_count", "3")
        .meta("sqs_sender_id", "AIDA")
        .meta("sqs_message_group_id", "g")
        .meta("sqs_message_deduplication_id", "d")
        .meta("sqs_sequence_number", "18")
        .meta("sqs_aws_trace_header", "Root=1-2-3")
        .meta("sqs_receipt_handle", "secret-handle")
        .header("beanstalk.sqsd.path", "/reports");

    let headers = described(|_| (), &message);

    for (name, expected) in [
        ("user-agent", Some(concat!("aws-sqsd/", env!("CARGO_PKG_VERSION")))),
        ("content-type", Some("application/json")),
        ("x-aws-sqsd-msgid", Some("m-1")),
        ("x-aws-sqsd-queue", Some("jobs")),
        ("x-aws-sqsd-first-received-at", Some("2025-11-22T08:26:40Z")),
        ("x-aws-sqsd-sent-at", Some("2025-11-22T08:26:39Z")),
        ("x-aws-sqsd-receive-count", Some("3")),
        ("x-aws-sqsd-sender-id", Some("AIDA")),
        ("x-aws-sqsd-message-group-id", Some("g")),
        ("x-aws-sqsd-message-deduplication-id", Some("d")),
        ("x-aws-sqsd-sequence-number", Some("18")),
        ("x-amzn-trace-id", Some("Root=1-2-3")),
        // It only reports: nothing says that this is a task.
        ("x-aws-sqsd-path", Some("/reports")),
        ("x-aws-sqsd-taskname", None),
        ("x-aws-sqsd-attr-beanstalk.sqsd.path", None),
        ("x-aws-sqsd-receipt-handle", None),
    ] {
        assert_eq!(text(&headers, name), expected, "{name}");
    }
    assert_eq!(task(&message), None);
    let handed = described(|config| config.receipt_handle = true, &message);
    assert_eq!(text(&handed, "x-aws-sqsd-receipt-handle"), Some("secret-handle"));
}

#[test]
fn attributes_that_a_header_can_carry_go_along() {
    let message = Message::new("x")
        .header("Plain", "a b")
        .header("Count", "7")
        .meta("sqs_type_Count", "Number.int")
        .header("Label", "ü")
        .meta("sqs_type_Label", "String.label")
        .header("Blob", vec![0xff, 0])
        .meta("sqs_type_Blob", "Binary.png")
        .header("plain", "the second of its name")
        .header("split", "a\r\nx-evil: 1")
        .header("nul", "a\0b")
        .header("no header", "x")
        .header("", "an empty name ends in a dash")
        .header("Beanstalk.SQSD.other", "reserved");

    let headers = described(|_| (), &message);

    let attributes: Vec<_> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-aws-sqsd-attr-")?, value.as_bytes())))
        .collect();
    let expected: [(&str, &[u8]); 4] = [
        ("plain", b"a b"),
        ("count", b"7"),
        ("label", "ü".as_bytes()),
        ("", b"an empty name ends in a dash"),
    ];
    assert_eq!(attributes, expected);
    assert!(!headers.contains_key("x-evil"));
    let encoded = described(|config| config.binary_attributes = BinaryAttributes::Base64, &message);
    assert_eq!(text(&encoded, "x-aws-sqsd-attr-blob"), Some("/wA="));
}

#[test]
fn headers_stay_within_their_bound() {
    let mut message = Message::new("x");
    for number in 0..100 {
        message = message.header(format!("a{number}"), "v".repeat(100));
    }

    for bound in [256, 1024, 16 << 10] {
        let headers = described(|config| config.max_header_bytes = ByteSize(bound), &message);

        assert!(size(&headers) as u64 <= bound, "{bound}: {}", size(&headers));
        assert_eq!(bound == 16 << 10, headers.len() > 100, "{bound}");
    }
}

#[test]
fn what_stays_behind_is_logged_with_its_name_and_without_its_value() {
    let message = Message::new("x")
        .header("Blob", vec![0xff, 0])
        .meta("sqs_type_Blob", "Binary")
        .header("no header", "canary-1")
        .header("split", "canary-2\r\nx-evil: 1")
        .header("Twice", "first")
        .header("twice", "canary-3")
        .header("long", "canary-4".repeat(100));
    let (logs, _guard) = Logs::gather();

    let config = SqsdConfig {
        max_header_bytes: ByteSize(600),
        ..SqsdConfig::default()
    };
    let convention = Convention::new(&config).unwrap();
    let (left_out, counter) = counted();
    let mut headers = HeaderMap::new();
    for _ in 0..3 {
        headers.clear();
        convention.describe(&mut headers, &message, &left_out);
    }

    assert_eq!(text(&headers, "x-aws-sqsd-attr-twice"), Some("first"));
    for (name, why) in [
        ("Blob", "it is no text: see binary_attributes"),
        ("no header", "its name is no HTTP header's"),
        ("x-aws-sqsd-attr-split", "its value is none of HTTP's"),
        ("x-aws-sqsd-attr-twice", "there is one of this name already"),
        (
            "x-aws-sqsd-attr-long",
            "the request's headers are full: see max_header_bytes",
        ),
    ] {
        let part = format!("name={name:?} why={why:?}");
        let said = (logs.count("WARN", &part), logs.count("DEBUG", &part));
        assert_eq!(said, (1, 2), "{part}: {logs:?}");
    }
    assert_eq!(counter.get(), 15);
    assert_eq!(logs.count("", "canary"), 0, "{logs:?}");
}

#[test]
fn a_scheduled_time_makes_a_task() {
    for (time, expected) in [
        ("2026-11-22 07:30:00 UTC", "2026-11-22T07:30:00Z"),
        ("2026-11-22T07:30:00Z", "2026-11-22T07:30:00Z"),
        ("2026-11-22T07:30:00.250+09:00", "2026-11-21T22:30:00Z"),
        ("2026-11-22 07:30:00", "2026-11-22T07:30:00Z"),
        ("2026-11-22T07:30", "2026-11-22T07:30:00Z"),
        ("whenever", "whenever"),
    ] {
        let message = Message::new("elasticbeanstalk scheduled job")
            .header("beanstalk.sqsd.path", "/backup")
            .header("beanstalk.sqsd.task_name", "backup-job")
            .header("beanstalk.sqsd.scheduled_time", time);

        let headers = described(|_| (), &message);

        assert_eq!(task(&message), Some(Task { path: Some("/backup") }));
        assert_eq!(text(&headers, "x-aws-sqsd-taskname"), Some("backup-job"));
        assert_eq!(text(&headers, "x-aws-sqsd-scheduled-at"), Some(expected), "{time}");
        assert!(
            Convention::new(&SqsdConfig::default())
                .unwrap()
                .body(&message)
                .is_empty()
        );
    }
}

#[test]
fn statuses_follow_their_family() {
    for number in 100..=599 {
        let status = StatusCode::from_u16(number).unwrap();
        for (compat, success) in [
            (None, (200..300).contains(&number)),
            (Some(Compat::Taiyoh), number < 500),
            (Some(Compat::Beanstalk), number == 200),
        ] {
            let (plain, asked) = (verdict(compat, status, false), verdict(compat, status, true));

            let failure = if matches!(number, 429 | 503) {
                Verdict::Throttled
            } else {
                Verdict::Retry
            };
            let expected = if success {
                (Verdict::Success, Verdict::Success)
            } else {
                (Verdict::Retry, failure)
            };
            assert_eq!((plain, asked), expected, "{compat:?} {number}");
        }
    }
}

#[test]
fn an_envelope_is_opened_where_that_is_wanted() {
    let envelope = r#"{"Type":"Notification","MessageId":"1","TopicArn":"t","Message":"{\"a\":1}"}"#;
    let open = Convention::new(&SqsdConfig {
        via_sns: true,
        ..Default::default()
    })
    .unwrap();
    let closed = Convention::new(&SqsdConfig::default()).unwrap();

    for (payload, expected) in [
        (envelope, r#"{"a":1}"#),
        (r#"{"Type":"Other","Message":"x"}"#, r#"{"Type":"Other","Message":"x"}"#),
        ("not JSON", "not JSON"),
    ] {
        assert_eq!(open.body(&Message::new(payload)), expected);
        assert_eq!(closed.body(&Message::new(payload)), payload);
    }
}
