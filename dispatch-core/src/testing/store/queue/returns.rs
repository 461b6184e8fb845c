//! What comes back.

use super::super::*;

pub(super) async fn battery(store: &dyn Store) {
    a_release_counts_nothing(store).await;
    a_release_keeps_its_place(store).await;
    a_retry_keeps_history_and_counts_what_counts(store).await;
}

async fn a_release_counts_nothing(store: &dyn Store) {
    let queue = name("release");
    put(store, &queue, vec![item("a")]).await;
    let first = take(store, &queue, 1).await;

    let released = settle(store, &queue, first[0].lease, Outcome::Release).await;
    let second = take(store, &queue, 1).await;

    same(released, Ok(()), "a lease can be released");
    same(
        payloads(&second),
        vec!["a".to_owned()],
        "a released item is claimable at once",
    );
    same(
        (second[0].item.attempts, second[0].item.history.len()),
        (0, 0),
        "a release is no attempt",
    );
    assert_ne!(
        first[0].lease, second[0].lease,
        "every lease of an item has a fence of its own"
    );
}

async fn a_release_keeps_its_place(store: &dyn Store) {
    let queue = name("place");
    for payload in ["a", "b", "c"] {
        put(store, &queue, vec![item(payload)]).await;
    }

    let released = take(store, &queue, 1).await;
    same(
        settle(store, &queue, released[0].lease, Outcome::Release).await,
        Ok(()),
        "a lease can be released",
    );
    let mut again = Vec::new();
    for _ in 0..3 {
        again.extend(payloads(&take(store, &queue, 1).await));
    }

    same(
        again,
        ["a", "b", "c"].map(str::to_owned).to_vec(),
        "a released item comes before those that it came before",
    );
}

async fn a_retry_keeps_history_and_counts_what_counts(store: &dyn Store) {
    let queue = name("retry");
    put(store, &queue, vec![item("a")]).await;
    let first = take(store, &queue, 1).await;
    let attempts = vec![
        attempt(1, &Error::retry("refused \u{0}").with_code("500")),
        attempt(2, &Error::unavailable("down")),
        attempt(2, &Error::throttled(Some(LONG), "slow")),
        attempt(2, &Error::permanent("never")),
    ];
    let retry = Outcome::Retry {
        delay: SHORT,
        attempts: attempts.clone(),
    };

    same(
        settle(store, &queue, first[0].lease, retry).await,
        Ok(()),
        "a lease can end in a retry",
    );
    same(
        take(store, &queue, 1).await.len(),
        0,
        "a retried item waits for its delay",
    );
    let second = take_eventually(store, &queue, "a retried item comes back after its delay").await;

    same(
        second[0].item.attempts,
        2,
        "only attempts of a class that counts are counted",
    );
    same(&second[0].item.history, &attempts, "a retry keeps every attempt");
    same(
        &second[0].item.payload,
        &first[0].item.payload,
        "a retry keeps the payload",
    );
    let once_more = Outcome::Retry {
        delay: Duration::ZERO,
        attempts: attempts[..1].to_vec(),
    };
    same(
        settle(store, &queue, second[0].lease, once_more).await,
        Ok(()),
        "a retry can follow a retry",
    );
    let third = take_eventually(store, &queue, "a retry without delay comes back").await;
    same(
        (third[0].item.attempts, third[0].item.history.len()),
        (3, 5),
        "attempts add up over retries",
    );
}
