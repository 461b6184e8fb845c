use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{Class, Reply};

const SETTINGS: BreakerSettings = BreakerSettings {
    failures: 0.5,
    min_calls: 4,
    window: Duration::from_secs(30),
    open: Duration::from_secs(30),
    probes: 2,
};

/// Answers as the payload says.
fn worker(
    breaker: &BreakerHandle,
) -> impl Service<Message, Response = Reply, Error = Error, Future = impl Future<Output = Result<Reply, Error>>> + Clone
{
    BreakerLayer::with(breaker.clone()).layer(tower::service_fn(|message: Message| async move {
        match &message.payload[..] {
            b"ok" => Ok(Reply::default()),
            b"permanent" => Err(Error::permanent("bad")),
            b"down" => Err(Error::unavailable("down")),
            _ => Err(Error::retry("failed")),
        }
    }))
}

async fn send(breaker: &BreakerHandle, payload: &'static str) -> Result<Reply, Error> {
    worker(breaker).call(Message::new(payload)).await
}

#[tokio::test(start_paused = true)]
async fn half_of_the_calls_failing_opens_it_and_probes_close_it() {
    let breaker = BreakerHandle::new(SETTINGS);
    for payload in ["ok", "permanent", "fail"] {
        drop(send(&breaker, payload).await);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);

    drop(send(&breaker, "fail").await);
    let refused = send(&breaker, "ok").await.unwrap_err();
    assert_eq!(
        (refused.class(), refused.code().map(|code| &**code)),
        (Class::Unavailable, Some("breaker"))
    );

    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen(2));
    send(&breaker, "ok").await.unwrap();
    assert_eq!(breaker.state(), BreakerState::HalfOpen(1));
    send(&breaker, "ok").await.unwrap();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_far_side_is_asked_again_after_one_two_four_seconds() {
    let breaker = BreakerHandle::new(SETTINGS);
    let mut waits = Vec::new();

    for _ in 0..7 {
        drop(send(&breaker, "down").await);
        let BreakerState::Open(until) = breaker.state() else {
            panic!("open")
        };
        waits.push((until - Instant::now()).as_secs());
        tokio::time::advance(until - Instant::now()).await;
    }

    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_probe_may_be_made_again() {
    let breaker = BreakerHandle::new(SETTINGS);
    drop(send(&breaker, "down").await);
    tokio::time::advance(Duration::from_secs(1)).await;

    let mut service = worker(&breaker);
    let (first, second) = (service.call(Message::new("ok")), service.call(Message::new("ok")));
    assert_eq!(breaker.state(), BreakerState::HalfOpen(0));
    drop((first, second));

    assert_eq!(breaker.state(), BreakerState::HalfOpen(2));
}

#[tokio::test(start_paused = true)]
async fn old_failures_are_forgotten() {
    let breaker = BreakerHandle::new(SETTINGS);
    for _ in 0..3 {
        drop(send(&breaker, "fail").await);
    }
    tokio::time::advance(Duration::from_secs(60)).await;

    drop(send(&breaker, "fail").await);

    assert_eq!(breaker.state(), BreakerState::Closed);
}

/// The state machine as a table, to hold the real one against.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Model {
    Closed { calls: u32, failures: u32 },
    Open,
    HalfOpen { succeeded: u32 },
}

proptest! {
    #[test]
    fn it_follows_its_model(steps in prop::collection::vec(0u8..5, 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let breaker = BreakerHandle::new(SETTINGS);
            let mut model = Model::Closed { calls: 0, failures: 0 };
            for step in steps {
                let (payload, ok, down) = match step { 0 => ("ok", true, false), 1 => ("fail", false, false), 2 => ("down", false, true), 3 => ("permanent", true, false), _ => {
                    // Time passes: an open breaker falls half open, a closed one forgets.
                    tokio::time::advance(Duration::from_secs(61)).await;
                    model = match model { Model::Closed { .. } => Model::Closed { calls: 0, failures: 0 }, Model::Open => Model::HalfOpen { succeeded: 0 }, half => half };
                    if matches!(model, Model::Closed { .. }) { breaker.0.window.advance(Instant::now()); }
                    continue;
                } };
                let refused = send(&breaker, payload).await.err().and_then(|error| error.code().cloned()).is_some();
                prop_assert_eq!(refused, model == Model::Open, "{:?}", model);
                model = match model {
                    Model::Open => Model::Open,
                    _ if down => Model::Open,
                    Model::Closed { calls, failures } => {
                        let (calls, failures) = (calls + 1, failures + u32::from(!ok));
                        if !ok && calls >= 4 && failures * 2 >= calls { Model::Open } else { Model::Closed { calls, failures } }
                    }
                    Model::HalfOpen { .. } if !ok => Model::Open,
                    Model::HalfOpen { succeeded: 1 } => Model::Closed { calls: 0, failures: 0 },
                    Model::HalfOpen { .. } => Model::HalfOpen { succeeded: 1 },
                };
                let same = matches!((breaker.state(), model), (BreakerState::Closed, Model::Closed { .. }) | (BreakerState::Open(_), Model::Open) | (BreakerState::HalfOpen(_), Model::HalfOpen { .. }));
                prop_assert!(same, "{:?} is not {:?}", breaker.state(), model);
            }
            Ok(())
        })?;
    }
}
