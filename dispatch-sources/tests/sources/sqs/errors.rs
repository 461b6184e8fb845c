use dispatch_core::{Class, Source as _};
use dispatch_sources::sqs::fake::Fault;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn each_error_has_its_class_and_its_pause() {
    let secs = Duration::from_secs;
    // The pause is that of the source; the SDK's own retries come before it.
    let table = [
        (Fault::Status(500), Class::Retry, secs(0)..=secs(60)),
        (
            Fault::error("RequestThrottled"),
            Class::Throttled(None),
            secs(0)..=secs(60),
        ),
        (
            Fault::error("KMS.ThrottlingException"),
            Class::Throttled(None),
            secs(0)..=secs(5),
        ),
        (Fault::error("OverLimit"), Class::Throttled(None), secs(1)..=secs(6)),
        (
            Fault::error("QueueDoesNotExist"),
            Class::Unavailable,
            secs(10)..=secs(61),
        ),
        (Fault::error("AccessDenied"), Class::Unavailable, secs(10)..=secs(61)),
        (Fault::error("ExpiredToken"), Class::Unavailable, secs(10)..=secs(61)),
        (Fault::error("InvalidAddress"), Class::Unavailable, secs(50)..=secs(71)),
        (
            Fault::error("KMS.DisabledException"),
            Class::Unavailable,
            secs(50)..=secs(71),
        ),
    ];
    for omit in [false, true] {
        for (fault, class, pause) in table.clone() {
            let fake = fake();
            fake.omit_query_errors(omit);
            let mut source = source(&fake, |_| ());
            source.probe().await.unwrap();
            // As often as the SDK asks for one receive.
            let times = match class {
                Class::Retry => 3,
                Class::Throttled(_) if fault == Fault::error("RequestThrottled") => 3,
                _ => 1,
            };
            fake.fail("ReceiveMessage", times, fault.clone());
            fake.send("q", "x");

            let error = source.receive(1).await.unwrap_err();
            let failed = Instant::now();
            source.receive(1).await.unwrap();

            assert_eq!(error.class(), class, "{fault:?}: {error}");
            assert!(pause.contains(&failed.elapsed()), "{fault:?}: {:?}", failed.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttle_says_for_how_long() {
    let fake = fake();
    fake.fail("ReceiveMessage", 3, Fault::Throttled(Some(Duration::from_secs(40))));
    let mut source = source(&fake, |_| ());

    let error = source.receive(1).await.unwrap_err();

    assert_eq!(error.class(), Class::Throttled(Some(Duration::from_secs(40))));
}

#[tokio::test(start_paused = true)]
async fn a_start_without_its_queue_ends_with_its_name_unless_it_is_to_wait() {
    for (fault, words) in [
        (None, "queue gone does not exist"),
        (Some("ExpiredToken"), "access denied (ExpiredToken)"),
        (Some("InvalidAddress"), "refused (InvalidAddress)"),
    ] {
        let fake = Fake::new();
        if let Some(code) = fault {
            fake.fail("*", 1_000, Fault::error(code));
        }
        let sink = MemorySink::new();
        let error = pipeline(source_of(&fake, "gone", |_| ()), &sink)
            .run()
            .await
            .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let fake = Fake::new();
    let sink = MemorySink::new();
    let waiting = source_of(&fake, "gone", |config| config.wait_for_aws = true);
    let pipeline = pipeline(waiting, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    tokio::time::sleep(Duration::from_secs(600)).await;

    fake.create_queue("gone", QueueOptions::default());
    fake.send("gone", "x");
    sink.took(1).await;

    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_reach_sqs_or_may_not_ask_for_attributes_goes_on() {
    for fault in [Fault::Reset, Fault::error("AccessDenied")] {
        let fake = fake();
        fake.fail("GetQueueAttributes", 9, fault);
        fake.send("q", "x");
        let sink = MemorySink::new();
        let pipeline = pipeline(source(&fake, |_| ()), &sink).build().unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());

        sink.took(1).await;

        handle.drain();
        run.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_and_made_anew_is_read_again() {
    let fake = fake();
    let sink = MemorySink::new();
    let pipeline = pipeline(source(&fake, |_| ()), &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    fake.send("q", "before");
    sink.took(1).await;

    fake.delete_queue("q");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let error = handle
        .status()
        .components
        .into_iter()
        .find_map(|component| component.error);
    assert!(error.is_some_and(|error| error.contains("does not exist")));
    let asked = fake.requests("ReceiveMessage") + fake.requests("GetQueueAttributes");
    assert!(asked < 60, "{asked} requests in five minutes");

    fake.create_queue("q", QueueOptions::default());
    fake.send("q", "after");
    sink.took(2).await;
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_field() {
    let fake = fake();
    type Change = fn(&mut SqsSourceConfig);
    let table: [(Change, &str); 10] = [
        (|config| config.queue_url = None, "queue_url"),
        (|config| config.queue_url = Some("orders".to_owned()), "queue_url"),
        (|config| config.queue_name = Some("q".to_owned()), "queue_name"),
        (
            |config| config.endpoint_url = Some("localhost".to_owned()),
            "endpoint_url",
        ),
        (|config| config.secret_access_key = None, "secret_access_key"),
        (
            |config| config.wait_time = Some(Period(Duration::from_millis(1_500))),
            "wait_time",
        ),
        (|config| config.wait_time = Some(period(21)), "wait_time"),
        (
            |config| config.visibility_timeout = period(50_000),
            "visibility_timeout",
        ),
        (|config| config.pollers = 0, "pollers"),
        (|config| config.receive_batch = 11, "receive_batch"),
    ];
    for (change, field) in table {
        let mut config = config(&fake, "q");
        change(&mut config);

        let error = SqsSource::new(config).unwrap_err();

        assert_eq!(error.field.as_deref(), Some(field), "{error}");
    }
}

#[tokio::test]
async fn no_secret_is_printed() {
    let mut config = config(&fake(), "q");
    config.secret_access_key = Some(Secret::new("canary-7"));
    config.endpoint_url = Some("http://127.0.0.1:1".to_owned());

    let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    let mut source = SqsSource::new(config).unwrap();
    let error = source.probe().await.unwrap_err();

    assert!(!format!("{shown} {error} {error:?} {} {source:?}", error.report()).contains("canary-7"));
    assert_eq!(error.class(), Class::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_refused_are_loaded_anew() {
    for (code, loaded) in [("ExpiredToken", 2), ("OverLimit", 1)] {
        let fake = fake();
        fake.send("q", "x");
        // Each load asks for the queue of this name.
        let mut source = source(&fake, |config| {
            config.queue_url = None;
            config.queue_name = Some("q".to_owned());
        });
        fake.fail("ReceiveMessage", 1, Fault::error(code));

        source.receive(1).await.unwrap_err();
        source.receive(1).await.unwrap();

        assert_eq!(fake.requests("GetQueueUrl"), loaded, "{code}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named_whatever_stands_in_the_way() {
    let plain = fake().serve().await;
    let refused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for endpoint in [
        format!("http://{refused}"),
        "http://nowhere.invalid".to_owned(),
        // It does not speak TLS.
        plain.url().replace("http://", "https://"),
    ] {
        let mut config = config(&fake(), "q");
        config.endpoint_url = Some(endpoint.clone());
        let mut source = SqsSource::new(config).unwrap();

        let error = source.probe().await.unwrap_err();

        assert_eq!(
            (error.class(), error.code().map(|code| &**code)),
            (Class::Unavailable, Some("connect")),
            "{endpoint}"
        );
        assert!(
            error.to_string().contains("GetQueueAttributes on q: cannot reach SQS"),
            "{endpoint}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_fails_takes_no_retries_from_another() {
    let (failing, well) = (fake(), fake());
    failing.fail("*", 100_000, Fault::Status(500));
    let mut bad = source(&failing, |_| ());
    // Each of these is three requests until the SDK's retries are used up.
    for _ in 0..200 {
        bad.probe().await.unwrap_err();
    }
    assert!(failing.requests("GetQueueAttributes") < 600, "they are used up");
    well.fail("GetQueueAttributes", 2, Fault::Status(500));

    source(&well, |_| ()).probe().await.unwrap();

    assert_eq!(well.requests("GetQueueAttributes"), 3);
}
