//! What follows from an outcome; a pure function.

use std::time::Duration;

use crate::{Attempt, Capabilities, Class, Disposition, Error, Later, Reply, layer::IN_PROGRESS};

/// What the driver does with a message once the stack is through with it.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Tell the source.
    Settle(Disposition),
    /// Keep it as a dead letter, for this reason, then tell the source.
    Bury {
        reason: &'static str,
        attempts: Vec<Attempt>,
    },
    /// Keep it for a later attempt, then tell the source.
    Park { delay: Duration, attempts: Vec<Attempt> },
    /// Give it back as it came, and drain: the sink is gone, for this reason.
    Gone(String),
}

/// Codes of what a layer refused before anything was tried.
const NOT_TRIED: [&str; 2] = ["breaker", IN_PROGRESS];

/// The wait after an outcome that gives none: throttled without a time, unavailable without a breaker.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);

/// Reads the outcome. `reopens` says how long the breaker stays open, if it is.
pub(super) fn verdict(
    outcome: Result<Reply, Error>,
    attempt_of: impl FnOnce(&Error) -> Attempt,
    source: &Capabilities,
    reopens: impl FnOnce() -> Option<Duration>,
) -> Verdict {
    let mut error = match outcome {
        Ok(reply) if source.wants_reply => return Verdict::Settle(Disposition::Ack(reply)),
        Ok(_) => return Verdict::Settle(Disposition::Ack(Reply::default())),
        Err(error) => error,
    };
    let mut attempts = error.take_attempts();
    if attempts.is_empty() && error.code().is_none_or(|code| !NOT_TRIED.contains(&code.as_str())) {
        attempts.push(attempt_of(&error));
    }
    let bury = |reason, attempts| Verdict::Bury { reason, attempts };
    match (error.later(), error.class()) {
        (Some(Later::Exhausted), _) => bury("exhausted", attempts),
        (Some(Later::Expired), _) => bury("deadline", attempts),
        (Some(Later::Gone), _) => Verdict::Gone(error.report()),
        (None, Class::Permanent) => bury("permanent", attempts),
        (Some(Later::After(delay)), _) => postpone(delay, attempts, source),
        (None, Class::Throttled(after)) => postpone(after.unwrap_or(DEFAULT_WAIT).max(DEFAULT_WAIT), attempts, source),
        (None, Class::Unavailable) => postpone(reopens().unwrap_or(DEFAULT_WAIT), attempts, source),
        // Retries are off: the source alone decides when and how often.
        (None, Class::Retry) if source.redelivers || source.wants_reply => {
            Verdict::Settle(Disposition::Nack { delay: None, attempts })
        }
        (None, Class::Retry) => bury("exhausted", attempts),
    }
}

/// No message waits longer, whatever a far side asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Later: by the source where it can wait and count, else in the Store. A caller that waits for the answer gets it now.
fn postpone(delay: Duration, attempts: Vec<Attempt>, source: &Capabilities) -> Verdict {
    let delay = delay.min(LONGEST_WAIT);
    let natively = source.redelivers && source.counts_redeliveries && source.nack_delay.allows(delay);
    if natively || source.wants_reply {
        Verdict::Settle(Disposition::Nack {
            delay: Some(delay),
            attempts,
        })
    } else {
        Verdict::Park { delay, attempts }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::NackDelay;

    fn attempt(error: &Error) -> Attempt {
        Attempt::failed(1, SystemTime::UNIX_EPOCH, Duration::ZERO, error)
    }

    fn source(change: impl FnOnce(&mut Capabilities)) -> Capabilities {
        let mut capabilities = Capabilities::default();
        change(&mut capabilities);
        capabilities
    }

    /// The verdict in one word.
    fn word(error: Error, source: &Capabilities) -> String {
        match verdict(Err(error), attempt, source, || Some(Duration::from_secs(9))) {
            Verdict::Settle(Disposition::Nack { delay, .. }) => format!("nack {delay:?}"),
            Verdict::Bury { reason, .. } => format!("bury {reason}"),
            Verdict::Park { delay, .. } => format!("park {delay:?}"),
            Verdict::Gone(why) => format!("gone {why}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_outcome_has_its_verdict() {
        let poor = source(|_| ());
        let rich = source(|source| {
            source.redelivers = true;
            source.counts_redeliveries = true;
            source.nack_delay = NackDelay::UpTo(Duration::from_secs(60));
        });
        let uncounting = source(|source| {
            source.redelivers = true;
            source.nack_delay = NackDelay::Unlimited;
        });
        let waiting = source(|source| source.wants_reply = true);
        let secs = Duration::from_secs;
        let table = [
            (Error::permanent("x"), &rich, "bury permanent"),
            (Error::retry("x"), &rich, "nack None"),
            (Error::retry("x"), &poor, "bury exhausted"),
            (
                Error::retry("x").with_later(Later::After(secs(5))),
                &rich,
                "nack Some(5s)",
            ),
            (Error::retry("x").with_later(Later::After(secs(61))), &rich, "park 61s"),
            (Error::retry("x").with_later(Later::After(secs(5))), &poor, "park 5s"),
            (
                Error::retry("x").with_later(Later::After(secs(5))),
                &uncounting,
                "park 5s",
            ),
            (
                Error::retry("x").with_later(Later::After(secs(5))),
                &waiting,
                "nack Some(5s)",
            ),
            (Error::retry("x").with_later(Later::Exhausted), &rich, "bury exhausted"),
            (Error::permanent("x").with_later(Later::Expired), &rich, "bury deadline"),
            (Error::throttled(Some(secs(7)), "x"), &rich, "nack Some(7s)"),
            (Error::throttled(None, "x"), &poor, "park 1s"),
            (Error::unavailable("x"), &rich, "nack Some(9s)"),
            (Error::unavailable("x"), &poor, "park 9s"),
            (Error::gone("x"), &rich, "gone x"),
            (Error::gone("x"), &poor, "gone x"),
            (Error::gone("x"), &waiting, "gone x"),
        ];
        for (error, source, expected) in table {
            let shown = format!("{error:?}");
            assert_eq!(word(error, source), expected, "{shown}");
        }
    }

    #[test]
    fn a_reply_goes_back_only_to_who_waits_for_it() {
        let reply = || Ok(Reply::new("answer"));
        let waiting = source(|source| source.wants_reply = true);

        assert_eq!(
            verdict(reply(), attempt, &waiting, || None),
            Verdict::Settle(Disposition::Ack(Reply::new("answer")))
        );
        assert_eq!(
            verdict(reply(), attempt, &source(|_| ()), || None),
            Verdict::Settle(Disposition::Ack(Reply::default()))
        );
    }
}
