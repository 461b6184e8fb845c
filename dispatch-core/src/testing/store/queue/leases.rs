//! Claims, and what their leases are worth.

use super::super::*;

pub(super) async fn battery(store: &dyn Store) {
    an_item_comes_out_as_it_went_in(store).await;
    a_leased_item_is_hidden_and_a_done_one_is_gone(store).await;
    answers_come_per_entry_and_in_order(store).await;
    an_expired_lease_is_lost_to_the_next_claim(store).await;
    an_extended_lease_lasts(store).await;
    an_extension_touches_no_other_lease_of_its_claim(store).await;
    concurrent_claims_share_nothing(store).await;
    queues_do_not_see_each_other(store).await;
}

async fn an_item_comes_out_as_it_went_in(store: &dyn Store) {
    let queue = name("whole");
    let mut sent = item("whole");
    sent.payload = (0..=255).cycle().take(5000).collect::<Vec<u8>>().into();
    sent.headers = raw_headers();
    sent.metadata = raw_headers();
    sent.key = Some("a key".into());
    sent.priority = -7;
    sent.dedupe = Some("once".into());
    sent.deadline = Some(whole_micros(SystemTime::now() + LONG));
    sent.attempts = 3;
    sent.history = vec![attempt(3, &Error::retry("no \u{1F980}\n").with_code("503"))];
    let mut bare = item("bare");
    bare.payload = Bytes::new();

    put(store, &queue, vec![sent.clone(), bare.clone()]).await;
    let mut claimed = take(store, &queue, 10).await;
    claimed.sort_by_key(|claimed| claimed.item.priority);

    same(claimed.len(), 2, "every item that was enqueued can be claimed");
    for (sent, claimed) in [sent, bare].iter_mut().zip(claimed) {
        sent.run_at = claimed.item.run_at;
        same(&claimed.item, sent, "an item comes out byte for byte as it went in");
    }
}

async fn a_leased_item_is_hidden_and_a_done_one_is_gone(store: &dyn Store) {
    let queue = name("done");
    put(store, &queue, vec![item("a")]).await;

    let claimed = take(store, &queue, 10).await;
    let hidden = take(store, &queue, 10).await;
    let settled = settle(store, &queue, claimed[0].lease, Outcome::Done).await;
    let again = settle(store, &queue, claimed[0].lease, Outcome::Done).await;

    same(hidden.len(), 0, "a leased item is given to nobody else");
    same(settled, Ok(()), "the holder of a lease can settle it");
    same(again, Err(Stale), "a lease can be settled only once");
    same(take(store, &queue, 10).await.len(), 0, "an item that is done is gone");
}

async fn answers_come_per_entry_and_in_order(store: &dyn Store) {
    let queue = name("answers");
    put(store, &queue, ["a", "b", "c"].map(item).into()).await;
    let leases: Vec<_> = take(store, &queue, 10)
        .await
        .iter()
        .map(|claimed| claimed.lease)
        .collect();
    same(
        settle(store, &queue, leases[1], Outcome::Done).await,
        Ok(()),
        "one of a claim can be settled alone",
    );
    let stranger = Lease {
        row: leases[0].row,
        fence: leases[0].fence ^ 1,
    };

    let extended = store
        .queue()
        .extend(&queue, vec![leases[2], leases[1], stranger], LONG)
        .await
        .expect("a working store extends");
    let batch = [stranger, leases[0], leases[1], leases[2]].map(|lease| Completion {
        lease,
        outcome: Outcome::Done,
    });
    let settled = store
        .queue()
        .settle(&queue, batch.into())
        .await
        .expect("a working store settles");

    same(
        extended,
        vec![Ok(()), Err(Stale), Err(Stale)],
        "each extension gets its own answer, in order",
    );
    same(
        settled,
        vec![Err(Stale), Ok(()), Err(Stale), Ok(())],
        "each settlement gets its own answer, in order",
    );
}

async fn an_expired_lease_is_lost_to_the_next_claim(store: &dyn Store) {
    let queue = name("fence");
    put(store, &queue, vec![item("a")]).await;
    let old = take_briefly(store, &queue, 1).await[0].clone();

    let new = take_eventually(store, &queue, "an item whose lease ran out can be claimed again").await;
    let failed = Outcome::Retry {
        delay: Duration::ZERO,
        attempts: vec![attempt(1, &Error::retry("late"))],
    };
    let stale = [
        settle(store, &queue, old.lease, Outcome::Done).await,
        settle(store, &queue, old.lease, failed).await,
        settle(store, &queue, old.lease, Outcome::Release).await,
        extend(store, &queue, old.lease, LONG).await,
    ];

    same(
        stale,
        [Err(Stale); 4],
        "whoever lost a lease can neither settle nor extend it",
    );
    same(
        &new[0].item.payload,
        &old.item.payload,
        "the next claim gets the same item",
    );
    same(new[0].item.attempts, 0, "a lease that ran out is no attempt");
    same(
        take(store, &queue, 1).await.len(),
        0,
        "a stale settlement leaves the item leased",
    );
    same(
        settle(store, &queue, new[0].lease, Outcome::Release).await,
        Ok(()),
        "the new lease holds",
    );
    let kept = take_eventually(store, &queue, "a released item comes back").await;
    same(
        &kept[0].item.history,
        &old.item.history,
        "a stale settlement leaves no trace",
    );
}

async fn an_extended_lease_lasts(store: &dyn Store) {
    let queue = name("extend");
    put(store, &queue, ["kept", "lost"].map(item).into()).await;
    let kept = take_briefly(store, &queue, 1).await[0].clone();
    let lost = take_briefly(store, &queue, 1).await[0].clone();

    same(
        extend(store, &queue, kept.lease, LONG).await,
        Ok(()),
        "a live lease can be extended",
    );
    let back = take_eventually(store, &queue, "a lease that nobody extends runs out").await;

    same(back.len(), 1, "an extended lease does not run out at its old end");
    same(
        &back[0].item.id,
        &lost.item.id,
        "the item that comes back is the one that was not extended",
    );
    same(
        settle(store, &queue, kept.lease, Outcome::Done).await,
        Ok(()),
        "an extended lease can be settled",
    );
}

async fn an_extension_touches_no_other_lease_of_its_claim(store: &dyn Store) {
    let queue = name("extend-one");
    put(store, &queue, ["kept", "lost"].map(item).into()).await;
    let claimed = take_briefly(store, &queue, 2).await;

    same(
        extend(store, &queue, claimed[0].lease, LONG).await,
        Ok(()),
        "a live lease can be extended",
    );
    let back = take_eventually(
        store,
        &queue,
        "a lease runs out although another of its claim was extended",
    )
    .await;

    same(
        payloads(&back),
        payloads(&claimed[1..]),
        "only the lease that was named is extended",
    );
    same(
        settle(store, &queue, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "the extended lease still holds",
    );
    same(
        settle(store, &queue, claimed[1].lease, Outcome::Done).await,
        Err(Stale),
        "the other one is lost",
    );
}

async fn concurrent_claims_share_nothing(store: &dyn Store) {
    let queue = name("concurrent");
    put(
        store,
        &queue,
        (0..100).map(|number| item(&number.to_string())).collect(),
    )
    .await;

    let end = Instant::now() + PATIENCE;
    let mut ids = Vec::new();
    while ids.len() < 100 {
        assert!(Instant::now() < end, "concurrent claims find every item in the end");
        let claims = futures::future::join_all((0..8).map(|_| take(store, &queue, 7))).await;
        ids.extend(claims.into_iter().flatten().map(|claimed| claimed.item.id));
    }
    ids.sort();
    ids.dedup();

    same(ids.len(), 100, "concurrent claims never get the same item");
}

async fn queues_do_not_see_each_other(store: &dyn Store) {
    let (one, two) = (name("one"), name("two"));
    put(store, &one, vec![item("a")]).await;

    same(
        take(store, &two, 10).await.len(),
        0,
        "an item is in its own queue alone",
    );
    let claimed = take(store, &one, 10).await;
    same(
        settle(store, &two, claimed[0].lease, Outcome::Done).await,
        Err(Stale),
        "a lease holds in its own queue",
    );
    same(
        settle(store, &one, claimed[0].lease, Outcome::Done).await,
        Ok(()),
        "a lease holds in its own queue",
    );
}
