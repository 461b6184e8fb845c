use std::num::NonZeroU32;

use super::*;
use crate::{
    Received, Source as _,
    store::{Enqueued, QueueSource},
};

pub(super) async fn battery(store: &Arc<dyn Store>) {
    a_claim_below_a_priority_takes_nothing_from_it_or_above(&**store).await;
    a_claim_below_a_priority_says_nothing_of_the_others(&**store).await;
    what_is_announced_to_who_waits_is_found_whole(&**store).await;
    lower_priorities_have_their_turns(store).await;
    strictly_the_lowest_goes_last(store).await;
}

async fn put_each(store: &dyn Store, queue: &str, counts: &[(i16, usize)]) {
    let items = counts.iter().flat_map(|(priority, count)| {
        let mut item = item(&priority.to_string());
        item.priority = *priority;
        std::iter::repeat_n(item, *count)
    });
    put(store, queue, items.collect()).await;
}

async fn take_below(store: &dyn Store, queue: &str, max: usize, below: i16) -> Vec<String> {
    let claim = Claim {
        max,
        lease: LONG,
        ordered: false,
        below: Some(below),
    };
    let claimed = store.queue().claim(queue, claim).await;
    payloads(&claimed.expect("a working store leases items"))
}

async fn a_claim_below_a_priority_takes_nothing_from_it_or_above(store: &dyn Store) {
    let queue = name("below");
    put_each(store, &queue, &[(i16::MAX, 1), (3, 2), (0, 1), (i16::MIN, 1)]).await;

    same(
        take_below(store, &queue, 2, 3).await,
        vec!["0".to_owned(), i16::MIN.to_string()],
        "a claim below a priority takes the highest below it first",
    );
    same(
        take_below(store, &queue, 10, i16::MIN).await.len(),
        0,
        "nothing is below the lowest priority",
    );
    same(
        take_below(store, &queue, 1, i16::MAX).await,
        vec!["3".to_owned()],
        "a claim below the highest priority leaves that",
    );
}

async fn a_claim_below_a_priority_says_nothing_of_the_others(store: &dyn Store) {
    let queue = name("below-wake");
    put_each(store, &queue, &[(7, 1)]).await;

    same(
        take_below(store, &queue, 10, 0).await.len(),
        0,
        "what is above is not taken",
    );
    let start = Instant::now();
    within("an item that a claim passed over wakes who waits", async {
        while take(store, &queue, 1).await.is_empty() {
            store.queue().changed(&queue).await;
        }
    })
    .await;

    let late = start.elapsed();
    assert!(
        late < Duration::from_secs(1),
        "what a claim passed over is found promptly, not after {late:?}"
    );
}

async fn what_is_announced_to_who_waits_is_found_whole(store: &dyn Store) {
    let queue = name("announced");
    // Who has seen the end of the queue, and waits, may be handed what is new before all else is looked for.
    same(take(store, &queue, 1).await.len(), 0, "a new queue is empty");
    put_each(store, &queue, &[(0, 2), (5, 3), (-5, 1)]).await;

    let mut taken = Vec::new();
    loop {
        let more = take(store, &queue, 10).await;
        if more.is_empty() {
            break;
        }
        taken.extend(payloads(&more));
    }

    same(
        taken,
        ["5", "5", "5", "0", "0", "-5"].map(str::to_owned).to_vec(),
        "claims until one brings none find all that was announced, the highest priority first",
    );
}

/// Receives all there is, so many at a time as `asked` says in turn, and tells the payloads in their order.
async fn drain(source: &mut QueueSource, count: usize, asked: &[usize]) -> Vec<String> {
    let mut order = Vec::new();
    for max in asked.iter().cycle() {
        if order.len() >= count {
            break;
        }
        let received = within("a source gives what is there", source.receive(*max)).await;
        let Received::Batch(batch) = received.expect("a working store leases items") else {
            panic!("a queue has no end");
        };
        assert!(batch.len() <= *max, "a source gives no more than it is asked for");
        for delivery in batch {
            order.push(String::from_utf8_lossy(&delivery.message.payload).into_owned());
            let settled = delivery.settle(crate::Disposition::Ack(crate::Reply::default())).await;
            assert!(settled.is_ok(), "who has a lease can settle it: {settled:?}");
        }
    }
    order
}

async fn lower_priorities_have_their_turns(store: &Arc<dyn Store>) {
    let every = NonZeroU32::new(3).unwrap_or(NonZeroU32::MIN);
    for asked in [&[1][..], &[100], &[2, 5, 1]] {
        let queue = name("turns");
        put_each(&**store, &queue, &[(1, 3), (5, 2), (9, 12)]).await;
        let mut source = QueueSource::new(Arc::clone(store), queue.as_str()).serve_lower_every(every);

        let order = drain(&mut source, 17, asked).await;

        same(
            order.concat(),
            "99599199599199199".to_owned(),
            "one message in three is of a lower priority, and these take turns",
        );
        put_each(&**store, &queue, &[(9, 4)]).await;
        same(
            drain(&mut source, 4, asked).await.concat(),
            "9999".to_owned(),
            "a turn that no lower priority takes goes to the highest",
        );
    }
}

async fn strictly_the_lowest_goes_last(store: &Arc<dyn Store>) {
    let queue = name("strict");
    put_each(&**store, &queue, &[(1, 2), (9, 12)]).await;
    let again = Item {
        priority: 9,
        ..item("9")
    };
    let mut source = QueueSource::new(Arc::clone(store), queue.as_str());

    let mut order = drain(&mut source, 5, &[5]).await.concat();
    let added = store.queue().enqueue(&queue, vec![again; 3]).await;
    order += &drain(&mut source, 12, &[5]).await.concat();

    same(
        added.expect("a working store takes items"),
        vec![Enqueued::New; 3],
        "items can come while others are taken",
    );
    same(
        order,
        format!("{}11", "9".repeat(15)),
        "by default a lower priority waits while a higher one does",
    );
}
