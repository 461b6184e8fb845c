//! Who hears how each attempt ended, besides its caller.

use super::{BreakerHandle, BreakerLayer, RateLimitLayer, rate_limit::Throttled};
use crate::Error;

/// A breaker counts each end, and a bucket is shut by some. Layers of their own keep a reference to either for each attempt;
/// in a [`Stack`](super::Stack) both are told where the attempt is measured and has one reference for all: to count two more up
/// and down took a twentieth of the time of a message.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    breaker: Option<BreakerHandle>,
    throttled: Option<Throttled>,
}

impl Witnesses {
    /// Takes over from the layers what they would be told. What is kept by key they see to themselves.
    pub(super) fn take(breaker: &mut BreakerLayer, rate_limit: &mut RateLimitLayer) -> Self {
        Self {
            breaker: breaker.told_elsewhere(),
            throttled: rate_limit.told_elsewhere(),
        }
    }

    #[inline]
    pub(super) fn hear<R>(&self, result: &Result<R, Error>) {
        if let Some(breaker) = &self.breaker {
            breaker.hear(result);
        }
        if let (Some(throttled), Err(error)) = (&self.throttled, result) {
            throttled.hear(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::time::Instant;
    use tower::{Layer as _, Service as _};

    use crate::{
        Error, Message, Reply,
        layer::{BreakerHandle, BreakerLayer, BreakerSettings, BreakerState, RateLimitLayer, Stack, StackService},
    };

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 0.5,
        min_calls: 4,
        window: Duration::from_secs(30),
        open: Duration::from_secs(30),
        probes: 2,
    };

    type Answer = fn(Message) -> std::future::Ready<Result<Reply, Error>>;

    /// Answers as the payload says, tries once.
    fn stack(breaker: &BreakerHandle, rate_limit: RateLimitLayer) -> StackService<tower::util::ServiceFn<Answer>> {
        let answer: Answer = |message| {
            std::future::ready(match &message.payload[..] {
                b"ok" => Ok(Reply::default()),
                b"busy" => Err(Error::throttled(Some(Duration::from_secs(7)), "busy")),
                _ => Err(Error::retry("failed")),
            })
        };
        let stack = Stack {
            retry: None,
            breaker: Some(BreakerLayer::with(breaker.clone())),
            rate_limit,
            ..Stack::default()
        };
        stack.layers(&Arc::default()).layer(tower::service_fn(answer))
    }

    #[tokio::test(start_paused = true)]
    async fn each_end_counts_once_and_probes_close_what_failures_opened() {
        let breaker = BreakerHandle::new(SETTINGS);
        let mut stack = stack(&breaker, RateLimitLayer::unlimited());
        let mut send = async |payload: &'static str| drop(stack.call(Message::new(payload)).await);

        for payload in ["ok", "fail", "busy"] {
            send(payload).await;
        }
        tokio::time::advance(Duration::from_secs(7)).await;
        send("ok").await;
        assert_eq!(
            breaker.state(),
            BreakerState::Closed,
            "three calls that count, one failure"
        );
        send("fail").await;
        assert!(
            matches!(breaker.state(), BreakerState::Open(_)),
            "{:?}",
            breaker.state()
        );

        tokio::time::advance(SETTINGS.open).await;
        send("ok").await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen(1));
        send("ok").await;
        assert_eq!(breaker.state(), BreakerState::Closed);
        send("fail").await;
        assert_eq!(breaker.state(), BreakerState::Closed, "what was before is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_attempt_holds_the_others_whatever_the_rate() {
        let second = Duration::from_secs(1);
        for rate_limit in [RateLimitLayer::unlimited(), RateLimitLayer::new(1_000, second, None)] {
            let mut stack = stack(&BreakerHandle::new(SETTINGS), rate_limit);
            let began = Instant::now();

            drop(stack.call(Message::new("busy")).await);
            stack.call(Message::new("ok")).await.unwrap();

            let held = began.elapsed();
            assert!((7 * second..8 * second).contains(&held), "{held:?}");
        }
    }
}
