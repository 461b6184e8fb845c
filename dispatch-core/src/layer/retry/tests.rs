use std::sync::atomic::{AtomicBool, AtomicU32};

use proptest::prelude::*;

use super::*;
use crate::{
    Backoff, Class, Jitter, Reply,
    layer::{RetryBudget, RetryRule},
};

/// Fails `failures` times with what `error` makes, then answers; counts its calls.
fn failing(
    failures: u32,
    error: impl Fn(u32) -> Error + Clone + Send + 'static,
) -> (
    impl Service<Message, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static,
    Arc<AtomicU32>,
) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let service = tower::service_fn(move |_: Message| {
        let call = counted.fetch_add(1, Relaxed) + 1;
        let result = if call <= failures {
            Err(error(call))
        } else {
            Ok(Reply::default())
        };
        async move { result }
    });
    (service, calls)
}

fn policy() -> RetryPolicy {
    RetryPolicy {
        backoff: Backoff::constant(Duration::from_millis(500)).jitter(Jitter::None),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_tried_again_here() {
    let (inner, calls) = failing(2, |_| Error::retry("not yet"));
    let started = Instant::now();

    RetryLayer::new(policy())
        .layer(inner)
        .call(Message::new("x"))
        .await
        .unwrap();

    assert_eq!((calls.load(Relaxed), started.elapsed().as_millis()), (3, 1_000));
}

#[tokio::test(start_paused = true)]
async fn a_wait_too_long_for_here_leaves_with_its_history() {
    let (inner, calls) = failing(100, |call| Error::retry(format!("failure {call}")).with_code("500"));

    let error = RetryLayer::new(policy())
        .layer(inner)
        .call(Message::new("x"))
        .await
        .unwrap_err();

    assert_eq!(
        (calls.load(Relaxed), error.later()),
        (7, Some(Later::After(Duration::from_millis(500))))
    );
    let history: Vec<_> = error
        .attempts()
        .iter()
        .map(|attempt| (attempt.number, attempt.text.as_str()))
        .collect();
    assert_eq!((history[0], history[6]), ((1, "failure 1"), (7, "failure 7")));
}

#[tokio::test(start_paused = true)]
async fn attempts_of_earlier_deliveries_count() {
    let (inner, calls) = failing(100, |_| Error::retry("no"));

    let error = RetryLayer::new(policy())
        .layer(inner)
        .call(Message::new("x").with_attempt(8))
        .await
        .unwrap_err();

    assert_eq!(
        (calls.load(Relaxed), error.later(), error.attempts().len()),
        (3, Some(Later::Exhausted), 3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_throttled_attempt_waits_as_asked_and_is_not_counted() {
    let (inner, _) = failing(2, |_| Error::throttled(Some(Duration::from_secs(1)), "slow down"));
    let policy = RetryPolicy {
        max_attempts: 1,
        ..policy()
    };
    let started = Instant::now();

    RetryLayer::new(policy)
        .layer(inner)
        .call(Message::new("x"))
        .await
        .unwrap();

    assert_eq!(started.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn permanent_and_unavailable_failures_are_not_tried_again() {
    for class in [Class::Permanent, Class::Unavailable] {
        let (inner, calls) = failing(1, move |_| Error::new(class, "no"));

        let error = RetryLayer::new(policy())
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap_err();

        assert_eq!(
            (calls.load(Relaxed), error.later(), error.attempts().len()),
            (1, None, 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_for_a_code_goes_before_the_rule_for_its_class() {
    let rule = |most| RetryRule {
        max_attempts: Some(most),
        backoff: None,
    };
    let rules = vec![("retry".into(), rule(5)), ("418".into(), rule(2))];
    for (code, expected) in [("418", 2), ("500", 5)] {
        let (inner, calls) = failing(100, move |_| Error::retry("no").with_code(code));
        let policy = RetryPolicy {
            rules: rules.clone(),
            ..policy()
        };

        RetryLayer::new(policy)
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap_err();

        assert_eq!(calls.load(Relaxed), expected, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_and_a_crowd_send_messages_out() {
    let crowd = RetryPolicy {
        crowded: Arc::new(AtomicBool::new(true)),
        ..policy()
    };
    let broke = RetryPolicy {
        budget: Some(RetryBudget::new(0.0, 0)),
        ..policy()
    };
    for policy in [crowd, broke] {
        let (inner, calls) = failing(1, |_| Error::retry("no"));

        let error = RetryLayer::new(policy)
            .layer(inner)
            .call(Message::new("x"))
            .await
            .unwrap_err();

        assert_eq!(
            (calls.load(Relaxed), error.later()),
            (1, Some(Later::After(Duration::from_millis(500))))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_wait_reaches_past_the_deadline() {
    let (inner, calls) = failing(100, |_| Error::retry("no"));
    let mut message = Message::new("x");
    message.deadline = Some(Instant::now() + Duration::from_millis(1_200));

    let error = RetryLayer::new(policy()).layer(inner).call(message).await.unwrap_err();

    assert_eq!(
        (calls.load(Relaxed), error.later(), error.attempts().len()),
        (3, Some(Later::Expired), 3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_asks_for_no_time_is_given_some() {
    let (inner, calls) = failing(1_000_000, |_| Error::throttled(Some(Duration::ZERO), "slow down"));

    let error = RetryLayer::new(RetryPolicy::default())
        .layer(inner)
        .call(Message::new("x"))
        .await
        .unwrap_err();

    assert!(
        matches!(error.later(), Some(Later::After(_))) && calls.load(Relaxed) <= 31,
        "{}",
        calls.load(Relaxed)
    );
}

proptest! {
    #[test]
    fn the_number_of_attempts_is_exact(most in 1u32..20, failures in 0u32..30) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let calls = runtime.block_on(async {
            let (inner, calls) = failing(failures, |_| Error::retry("no"));
            let policy = RetryPolicy { max_attempts: most, stay: Duration::MAX, ..policy() };
            drop(RetryLayer::new(policy).layer(inner).call(Message::new("x")).await);
            calls.load(Relaxed)
        });
        prop_assert_eq!(calls, most.min(failures + 1));
    }
}
