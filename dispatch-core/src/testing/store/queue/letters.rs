use std::sync::Arc;

use super::super::{
    dead_letters::{letter, list, of},
    *,
};
use crate::store::{DeadLetter, DeadLetterFilter};

pub(super) async fn battery(store: &dyn Store) {
    a_letter_is_kept_with_the_end_of_its_lease(store).await;
    whoever_lost_a_lease_keeps_no_letter(store).await;
    a_batch_may_end_in_every_way(store).await;
    what_is_there_twice_is_kept_once(store).await;
    a_letter_takes_the_place_of_one_that_is_not_replayed(store).await;
    a_whole_claim_may_be_buried(store).await;
}

fn bury(letter: DeadLetter) -> Outcome {
    Outcome::Bury(Arc::new(letter))
}

async fn end(store: &dyn Store, queue: &str, batch: Vec<(Lease, Outcome)>) -> Vec<Result<(), Stale>> {
    let batch = batch.into_iter().map(|(lease, outcome)| Completion { lease, outcome });
    store
        .queue()
        .settle(queue, batch.collect())
        .await
        .expect("a working store settles")
}

async fn left(store: &dyn Store, queue: &str) -> (u64, u64, u64) {
    let depth = store.queue().depth(queue).await.expect("a working store counts");
    (depth.ready, depth.delayed, depth.leased)
}

async fn ids(store: &dyn Store, pipeline: &str) -> Vec<String> {
    let mut ids: Vec<_> = list(store, &of(pipeline))
        .await
        .iter()
        .map(|letter| letter.id.to_string())
        .collect();
    ids.sort_unstable();
    ids
}

async fn a_letter_is_kept_with_the_end_of_its_lease(store: &dyn Store) {
    let (queue, pipeline) = (name("buried"), name("buried"));
    put(store, &queue, ["a", "b", "c"].map(item).into()).await;
    let leases: Vec<_> = take(store, &queue, 3).await.iter().map(|one| one.lease).collect();
    let mut bare = letter(&pipeline, "b");
    (bare.key, bare.trace_id, bare.attempts) = (None, None, Vec::new());
    let sent = [letter(&pipeline, "a"), bare];

    let settled = settle(store, &queue, leases[0], bury(sent[0].clone())).await;
    same(settled, Ok(()), "a live lease can end with a letter");
    same(
        left(store, &queue).await,
        (0, 0, 2),
        "what was claimed with it stays leased",
    );
    let together = vec![(leases[1], bury(sent[1].clone())), (leases[2], Outcome::Done)];
    let settled = end(store, &queue, together).await;

    same(settled, vec![Ok(()); 2], "a letter and one that is done end together");
    same(
        left(store, &queue).await,
        (0, 0, 0),
        "what is buried has left the queue",
    );
    let mut kept = list(store, &of(&pipeline)).await;
    for letter in &mut kept {
        same(letter.number > 0, true, "a kept dead letter has a number");
        letter.number = 0;
    }
    same(
        kept,
        sent.to_vec(),
        "a letter comes out byte for byte as the settlement brought it",
    );
}

async fn whoever_lost_a_lease_keeps_no_letter(store: &dyn Store) {
    let (queue, pipeline) = (name("buried-late"), name("buried-late"));
    put(store, &queue, vec![item("a")]).await;
    let old = take_briefly(store, &queue, 1).await[0].lease;
    let new = take_eventually(store, &queue, "an item whose lease ran out can be claimed again").await[0].lease;

    let late = settle(store, &queue, old, bury(letter(&pipeline, "a"))).await;
    same(late, Err(Stale), "whoever lost a lease cannot bury what it held");
    same(
        ids(store, &pipeline).await.len(),
        0,
        "a stale burial leaves no letter beside a message that is at work",
    );
    same(left(store, &queue).await, (0, 0, 1), "a stale burial leaves the item");

    let first = settle(store, &queue, new, bury(letter(&pipeline, "a"))).await;
    let second = settle(store, &queue, new, bury(letter(&pipeline, "other"))).await;
    same((first, second), (Ok(()), Err(Stale)), "a lease ends once");
    same(
        ids(store, &pipeline).await,
        vec!["a".to_owned()],
        "the holder's letter is kept",
    );
}

async fn a_batch_may_end_in_every_way(store: &dyn Store) {
    let (queue, pipeline) = (name("buried-mixed"), name("buried-mixed"));
    put(store, &queue, ["a", "b", "c", "d", "e"].map(item).into()).await;
    let claimed = take(store, &queue, 5).await;
    let lease = |place: usize| claimed[place].lease;
    let stranger = Lease {
        fence: lease(0).fence ^ 1,
        ..lease(0)
    };
    let retry = Outcome::Retry {
        delay: LONG,
        attempts: vec![attempt(1, &Error::retry("once"))],
    };

    let settled = end(
        store,
        &queue,
        vec![
            (stranger, bury(letter(&pipeline, "stranger"))),
            (lease(0), bury(letter(&pipeline, "a"))),
            (lease(1), Outcome::Done),
            (lease(2), retry),
            (lease(3), Outcome::Release),
            (lease(4), bury(letter(&pipeline, "e"))),
            (lease(4), bury(letter(&pipeline, "twice"))),
        ],
    )
    .await;

    same(
        settled,
        vec![Err(Stale), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Err(Stale)],
        "each settlement gets its own answer, in order",
    );
    same(
        ids(store, &pipeline).await,
        vec!["a".to_owned(), "e".to_owned()],
        "the letters of live leases are kept, and no other",
    );
    same(
        left(store, &queue).await,
        (1, 1, 0),
        "what is released or retried is in the queue, and nothing else",
    );
}

async fn what_is_there_twice_is_kept_once(store: &dyn Store) {
    let (queue, pipeline) = (name("buried-twice"), name("buried-twice"));
    put(store, &queue, ["a", "b", "c"].map(item).into()).await;
    let claimed = take(store, &queue, 3).await;
    let one = letter(&pipeline, "a");
    let again = DeadLetter {
        reason: "deadline".into(),
        ..one.clone()
    };

    let settled = end(
        store,
        &queue,
        vec![
            (claimed[0].lease, bury(one)),
            (claimed[1].lease, bury(again)),
            (claimed[2].lease, Outcome::Done),
            (claimed[2].lease, bury(letter(&pipeline, "done"))),
        ],
    )
    .await;

    same(
        settled,
        vec![Ok(()), Ok(()), Ok(()), Err(Stale)],
        "two of one message end both, one lease ends once",
    );
    let reasons: Vec<_> = list(store, &of(&pipeline)).await;
    let reasons: Vec<_> = reasons.iter().map(|letter| letter.reason.as_str()).collect();
    same(
        reasons,
        vec!["deadline"],
        "two letters of one message are one, the later",
    );
}

async fn a_letter_takes_the_place_of_one_that_is_not_replayed(store: &dyn Store) {
    let (queue, pipeline, elsewhere) = (name("buried-again"), name("buried-again"), name("replayed"));
    put(store, &queue, ["a", "b"].map(item).into()).await;
    let claimed = take(store, &queue, 2).await;
    let there = letter(&pipeline, "a");
    let kept = store.dead_letters().bury(vec![there.clone()]).await;
    kept.expect("a working store keeps dead letters");

    let first = settle(store, &queue, claimed[0].lease, bury(there.clone())).await;
    let numbers: Vec<_> = list(store, &of(&pipeline)).await;
    let numbers: Vec<_> = numbers.iter().map(|letter| letter.number).collect();
    same(
        (first, numbers.len()),
        (Ok(()), 1),
        "a letter that is there gives its place",
    );
    let replayed = store.dead_letters().replay(&numbers, &elsewhere).await;
    same(
        replayed.expect("a working store replays"),
        1,
        "a letter kept with a settlement can be replayed",
    );
    let second = settle(store, &queue, claimed[1].lease, bury(there)).await;

    same(second, Ok(()), "a live lease can end with a letter");
    let all = DeadLetterFilter {
        with_replayed: true,
        ..of(&pipeline)
    };
    same(
        list(store, &all).await.len(),
        2,
        "a message that dies again after its replay is a new letter",
    );
}

async fn a_whole_claim_may_be_buried(store: &dyn Store) {
    let (queue, pipeline) = (name("buried-all"), name("buried-all"));
    let numbers: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
    put(store, &queue, numbers.iter().map(|number| item(number)).collect()).await;
    let claimed = take(store, &queue, 100).await;
    let batch: Vec<_> = claimed
        .iter()
        .map(|claimed| (claimed.lease, bury(letter(&pipeline, &claimed.item.id))))
        .collect();

    let settled = end(store, &queue, batch).await;

    same(settled, vec![Ok(()); 100], "every lease ends");
    same(ids(store, &pipeline).await, numbers, "every letter is kept");
    same(left(store, &queue).await, (0, 0, 0), "nothing is left in the queue");
}
