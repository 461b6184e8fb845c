//! The convention of sqsd and of Elastic Beanstalk, against workers over real connections.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use dispatch_core::{
    Class, Message, Pipeline, Sink as _,
    config::{ByteSize, Period},
    testing::MemorySource,
};
use dispatch_sinks::http::{BatchConfig, Compat, HealthConfig, HmacConfig, HttpSinkConfig, SqsdConfig};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Notify, Semaphore},
};

use super::http::{Answer, code, echo, raw, read_request, sink, worker};

fn convention(config: &mut HttpSinkConfig) {
    config.sqsd = Some(SqsdConfig::default());
    config.idempotency_header = "off".into();
}

fn from_sqs(id: &str) -> Message {
    Message::with_id(id, "{\"a\":1}")
        .meta("sqs_message_id", id)
        .meta("sqs_queue_name", "jobs")
        .meta("sqs_approximate_receive_count", "2")
        .header("Tenant", "a7")
        .header("evil", "x\r\nx-injected: 1")
        .header("traceparent", "00-1-2-01")
}

#[tokio::test]
async fn a_worker_is_told_what_the_daemon_tells() {
    let (url, _) = worker(echo).await;
    let sink = sink(&format!("{url}/work"), convention);

    let reply = sink.send(from_sqs("m-1")).await.unwrap();

    assert_eq!(&reply.payload[..], b"{\"a\":1}");
    for (name, value) in [
        ("x-path", Some("/work")),
        ("user-agent", Some(concat!("aws-sqsd/", env!("CARGO_PKG_VERSION")))),
        ("content-type", Some("application/json")),
        ("x-aws-sqsd-msgid", Some("m-1")),
        ("x-aws-sqsd-queue", Some("jobs")),
        ("x-aws-sqsd-receive-count", Some("2")),
        ("x-aws-sqsd-attr-tenant", Some("a7")),
        ("traceparent", Some("00-1-2-01")),
        ("tenant", None),
        ("x-injected", None),
        ("x-aws-sqsd-attr-evil", None),
        ("dispatch-attempt", None),
        ("idempotency-key", None),
    ] {
        assert_eq!(reply.headers.get(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_periodic_task_goes_to_its_path_with_an_empty_body() {
    let (url, _) = worker(|request: Request<Incoming>| async move {
        let target = request.uri().to_string();
        let mut response = echo(request).await;
        response.headers_mut().insert("x-target", target.parse().unwrap());
        response
    })
    .await;
    let sink = sink(&format!("{url}/work?a=1"), convention);
    let task = |path: &str, time: Option<&str>| {
        let message = Message::with_id("t", "elasticbeanstalk scheduled job")
            .header("beanstalk.sqsd.path", path)
            .header("beanstalk.sqsd.task_name", "backup");
        match time {
            Some(time) => message.header("beanstalk.sqsd.scheduled_time", time),
            None => message,
        }
    };

    for (path, time, target, at, body) in [
        (
            "/backup?full=1",
            Some("2026-11-22 07:00:00 UTC"),
            "/backup?full=1",
            Some("2026-11-22T07:00:00Z"),
            "",
        ),
        (
            "backup",
            Some("2026-11-22T07:00:00Z"),
            "/backup",
            Some("2026-11-22T07:00:00Z"),
            "",
        ),
        (
            "//elsewhere.example/x",
            Some("2026-11-22T07:00:00Z"),
            "//elsewhere.example/x",
            Some("2026-11-22T07:00:00Z"),
            "",
        ),
        ("/backup", None, "/work?a=1", None, "elasticbeanstalk scheduled job"),
    ] {
        let reply = sink.send(task(path, time)).await.unwrap();

        assert_eq!(reply.headers.get("x-target"), Some(target), "{path}");
        assert_eq!(reply.headers.get("x-aws-sqsd-scheduled-at"), at, "{path}");
        assert_eq!(reply.headers.get("x-aws-sqsd-taskname"), at.map(|_| "backup"), "{path}");
        assert_eq!(reply.headers.get("x-aws-sqsd-path"), Some(path));
        assert_eq!(&reply.payload[..], body.as_bytes(), "{path}");
    }
    // What makes no URL is for the queue to give up on.
    let error = sink.send(task("/a b", Some("2026-11-22T07:00:00Z"))).await.unwrap_err();
    assert_eq!((error.class(), code(&error)), (Class::Retry, "url"));
}

#[tokio::test]
async fn every_failure_is_a_retry_and_each_family_has_its_successes() {
    let (url, _) = worker(|request| async move {
        let path = request.uri().path().to_owned();
        let (status, wait) = path[1..].split_once('/').unwrap();
        let mut response = Response::new(Full::default());
        *response.status_mut() = status.parse::<u16>().unwrap().try_into().unwrap();
        if !wait.is_empty() {
            response.headers_mut().insert("retry-after", wait.parse().unwrap());
        }
        response
    })
    .await;

    for compat in [None, Some(Compat::Taiyoh), Some(Compat::Beanstalk)] {
        let sink = sink(&format!("{url}/{{{{ id }}}}/{{{{ key | default \"\" }}}}"), |config| {
            convention(config);
            config.sqsd.as_mut().unwrap().compat = compat;
            config.retry_after_max = Period(Duration::from_secs(43_200));
        });
        for (status, wait) in [
            (200, ""),
            (204, ""),
            (302, ""),
            (404, ""),
            (401, ""),
            (429, ""),
            (429, "9"),
            (503, "99999"),
            (500, "9"),
        ] {
            let outcome = sink.send(Message::with_id(status.to_string(), "").with_key(wait)).await;

            let success = match compat {
                None => status < 300,
                Some(Compat::Taiyoh) => status < 500,
                Some(Compat::Beanstalk) => status == 200,
            };
            let expected = match (success, status, wait) {
                (true, ..) => None,
                (false, 429, "9") => Some(Class::Throttled(Some(Duration::from_secs(9)))),
                (false, 503, _) => Some(Class::Throttled(Some(Duration::from_secs(43_200)))),
                (false, ..) => Some(Class::Retry),
            };
            assert_eq!(
                outcome.err().map(|error| error.class()),
                expected,
                "{compat:?} {status} {wait}"
            );
        }
    }
}

#[tokio::test]
async fn a_worker_that_is_away_is_a_failure_as_any_other() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sink = sink(&format!("http://{address}/"), convention);

    let refused = sink.send(from_sqs("m")).await.unwrap_err();

    assert_eq!(refused.class(), Class::Retry, "{refused}");
    assert!(refused.report().contains(&address.to_string()), "{}", refused.report());
}

#[tokio::test]
async fn the_proof_is_over_what_is_sent() {
    let (url, _) = worker(echo).await;
    let sink = sink(&format!("{url}/work?q=1"), |config| {
        config.hmac = Some(HmacConfig {
            header: "X-Proof".into(),
            secret: dispatch_core::config::Secret::new("s3cret"),
        });
    });

    let reply = sink.send(Message::new("body")).await.unwrap();

    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"s3cret");
    let proof = ring::hmac::sign(&key, format!("POST {url}/work?q=1\nbody").as_bytes());
    let digits: String = proof.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(reply.headers.get("x-proof"), Some(digits.as_str()));
}

#[tokio::test]
async fn a_worker_that_falls_silent_is_given_up_on_and_a_slow_one_is_not() {
    let address = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(b"x").await.unwrap();
        }
    })
    .await;
    let silent = raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nxx")
            .await
            .unwrap();
        read_request(&mut stream).await;
    })
    .await;
    let dumb = raw(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let limited = |config: &mut HttpSinkConfig| config.inactivity_timeout = Some(Period(Duration::from_secs(1)));

    let slow = sink(&format!("http://{address}/"), limited)
        .send(Message::new("x"))
        .await
        .unwrap();
    assert_eq!(slow.payload.len(), 12);
    for address in [silent, dumb] {
        let error = sink(&format!("http://{address}/"), |config| {
            limited(config);
            config.timeout = Some(Period(Duration::from_secs(20)));
        });
        let error = error.send(Message::new("x")).await.unwrap_err();
        assert_eq!((error.class(), code(&error)), (Class::Retry, "inactive"));
    }
}

/// Answers the first request of each connection, and hangs up on the second: at once, or after a byte.
async fn fickle(mid_answer: bool) -> (String, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let address = raw(move |mut stream| {
        let count = count.clone();
        async move {
            read_request(&mut stream).await;
            count.fetch_add(1, SeqCst);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            read_request(&mut stream).await;
            count.fetch_add(1, SeqCst);
            if mid_answer {
                stream.write_all(b"HTTP/1.1 2").await.unwrap();
            }
        }
    })
    .await;
    (format!("http://{address}/"), requests)
}

#[tokio::test]
async fn a_kept_connection_closed_without_an_answer_costs_one_more_post_and_no_error() {
    let (url, requests) = fickle(false).await;
    let sink_of_ours = sink(&url, convention);
    sink_of_ours.send(Message::new("1")).await.unwrap();
    sink_of_ours.send(Message::new("2")).await.unwrap();
    // The one that failed on the first connection, and its like on a second.
    assert_eq!(requests.load(SeqCst), 3);

    // Part of an answer: the worker has begun, and only the queue may repeat it.
    let (url, requests) = fickle(true).await;
    let sink_of_ours = sink(&url, convention);
    sink_of_ours.send(Message::new("1")).await.unwrap();
    let error = sink_of_ours.send(Message::new("2")).await.unwrap_err();
    assert_eq!((code(&error), requests.load(SeqCst)), ("transport", 2));

    // Without the convention it is a failed attempt, as the page says.
    let (url, requests) = fickle(false).await;
    let plain = sink(&url, |_| {});
    plain.send(Message::new("1")).await.unwrap();
    assert_eq!(code(&plain.send(Message::new("2")).await.unwrap_err()), "transport");
    assert_eq!(requests.load(SeqCst), 2);

    // A new connection that is closed without an answer is no kept one.
    let hangs_up = raw(|mut stream| async move { read_request(&mut stream).await }).await;
    let error = sink(&format!("http://{hangs_up}/"), convention)
        .send(Message::new("x"))
        .await
        .unwrap_err();
    assert_eq!(code(&error), "transport");
}

#[tokio::test]
async fn redirects_are_followed_only_where_that_is_wanted_and_safe() {
    let (url, _) = worker(|request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        let (status, location) = match path.as_str() {
            "/307" => (307, "/end"),
            "/308" => (308, "/307"),
            "/302" => (302, "/end"),
            "/away" => (307, "http://127.0.0.1:1/end"),
            "/loop" => (307, "/loop"),
            _ => return echo(request).await,
        };
        let mut response = Response::new(Full::default());
        *response.status_mut() = status.try_into().unwrap();
        response.headers_mut().insert("location", location.parse().unwrap());
        response
    })
    .await;

    for (path, follow, expected) in [
        ("307", true, Ok("/end")),
        ("308", true, Ok("/end")),
        ("302", true, Err("302")),
        ("away", true, Err("307")),
        ("loop", true, Err("307")),
        ("307", false, Err("307")),
    ] {
        let sink = sink(&format!("{url}/{path}"), |config| config.follow_redirects = follow);

        let outcome = sink.send(Message::new("the body")).await;

        match (outcome, expected) {
            (Ok(reply), Ok(end)) => {
                assert_eq!(
                    (reply.headers.get("x-path"), &reply.payload[..]),
                    (Some(end), &b"the body"[..]),
                    "{path}"
                );
            }
            (Err(error), Err(status)) => assert_eq!(code(&error), status, "{path}"),
            (outcome, _) => panic!("{path}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_batch_is_one_request_and_each_message_has_its_own_outcome() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let (url, _) = worker(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            seen.lock().unwrap().push((
                parts.uri.path().to_owned(),
                parts.headers.contains_key("x-aws-sqsd-msgid"),
                value,
            ));
            Response::new(Full::from(r#"{"batchItemFailures":[{"itemIdentifier":"m1"}]}"#))
        }
    })
    .await;
    let sink = sink(&format!("{url}/batch"), |config| {
        convention(config);
        config.sqsd.as_mut().unwrap().batch = Some(BatchConfig {
            size: 3,
            linger: Period(Duration::from_secs(60)),
        });
    });

    let messages: Vec<_> = ["m0", "m1", "m2"].map(from_sqs).into();
    let outcomes = sink.send_batch(messages).await;
    let task = from_sqs("t")
        .header("beanstalk.sqsd.scheduled_time", "2026-11-22T07:00:00Z")
        .header("beanstalk.sqsd.path", "/task");
    sink.send(task).await.unwrap();

    let outcomes: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().err().map(|error| (error.class(), code(error))))
        .collect();
    assert_eq!(outcomes, [None, Some((Class::Retry, "batch_item")), None]);
    let bodies = bodies.lock().unwrap();
    let ids: Vec<_> = bodies[0].2["Records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["messageId"].as_str().unwrap())
        .collect();
    assert_eq!(
        (bodies[0].0.as_str(), bodies[0].1, ids),
        ("/batch", false, vec!["m0", "m1", "m2"])
    );
    // A periodic task goes alone, in its own form.
    assert_eq!((bodies[1].0.as_str(), bodies[1].1, bodies.len()), ("/task", true, 2));
}

#[tokio::test]
async fn a_batch_leaves_when_its_first_message_has_waited_and_ends_with_those_who_wait() {
    let (arrived, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_arrived, tell_gone) = (arrived.clone(), gone.clone());
    let address = raw(move |mut stream| {
        let (arrived, gone) = (tell_arrived.clone(), tell_gone.clone());
        async move {
            read_request(&mut stream).await;
            arrived.notify_one();
            // Nothing comes any more but the end.
            while stream.readable().await.is_ok() {
                match stream.try_read(&mut [0; 4096]) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            gone.notify_one();
        }
    })
    .await;
    let sink = Arc::new(sink(&format!("http://{address}/"), |config| {
        convention(config);
        config.sqsd.as_mut().unwrap().batch = Some(BatchConfig {
            size: 100,
            linger: Period(Duration::from_millis(10)),
        });
    }));

    let calls: Vec<_> = ["a", "b"]
        .map(|id| {
            let sink = sink.clone();
            tokio::spawn(async move { sink.send(from_sqs(id)).await.map(drop) })
        })
        .into();
    arrived.notified().await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);

    gone.notified().await;
}

#[test]
fn what_cannot_be_meant_is_refused() {
    type Change = fn(&mut HttpSinkConfig);
    let cases: [(&str, &str, Change); 5] = [
        ("http://127.0.0.1/{{ id }}", "url", |config| {
            config.sqsd.as_mut().unwrap().batch = Some(BatchConfig::default())
        }),
        ("http://127.0.0.1/", "sqsd.batch.size", |config| {
            config.sqsd.as_mut().unwrap().batch = Some(BatchConfig {
                size: 0,
                ..Default::default()
            });
        }),
        ("http://127.0.0.1/", "sqsd.content_type", |config| {
            config.sqsd.as_mut().unwrap().content_type = "a\nb".into()
        }),
        ("http://127.0.0.1/", "hmac.header", |config| {
            config.hmac = Some(HmacConfig {
                header: "a b".into(),
                secret: dispatch_core::config::Secret::new("x"),
            });
        }),
        ("http://127.0.0.1/", "health.url", |config| {
            config.health = Some(HealthConfig::new("ftp://127.0.0.1/".parse().unwrap()));
        }),
    ];
    for (url, field, change) in cases {
        let mut config = HttpSinkConfig::new(url.parse().unwrap());
        convention(&mut config);
        config.sqsd.as_mut().unwrap().max_header_bytes = ByteSize(1);
        change(&mut config);

        let error = dispatch_sinks::http::HttpSink::new(&config, ".".as_ref()).unwrap_err();

        assert_eq!(error.field.as_deref(), Some(field));
    }
}

#[tokio::test]
async fn nothing_is_received_before_the_worker_is_well() {
    let (asked, well) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (tell, state) = (asked.clone(), well.clone());
    let (url, _) = worker(move |request: Request<Incoming>| {
        let (tell, state) = (tell.clone(), state.clone());
        async move {
            if request.uri().path() != "/health" {
                return Answer::default();
            }
            assert_eq!(request.method(), "GET");
            let mut response = Answer::default();
            *response.status_mut() = if state.available_permits() > 0 { 302 } else { 500 }
                .try_into()
                .unwrap();
            tell.notify_one();
            response
        }
    })
    .await;
    let sink = sink(&format!("{url}/work"), |config| {
        let mut health = HealthConfig::new(format!("{url}/health").parse().unwrap());
        health.every = Period(Duration::from_millis(50));
        config.health = Some(health);
    });
    let source = MemorySource::new();
    let queue = source.queue();
    queue.push(Message::new("x"));
    let pipeline = Pipeline::builder("well").source(source).sink(sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    for _ in 0..3 {
        asked.notified().await;
    }
    assert_eq!(queue.received(), 0);
    well.add_permits(1);
    while handle.status().delivered == 0 {
        asked.notified().await;
    }
    handle.drain();
    assert!(run.await.unwrap().unwrap().finished);
}
