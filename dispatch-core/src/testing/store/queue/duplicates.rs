//! What is not stored beside its like.

use super::super::*;

use crate::store::Enqueued;

pub(super) async fn battery(store: &dyn Store) {
    a_dedupe_key_waits_once(store).await;
    a_returning_item_survives_its_dedupe_key(store).await;
    an_item_that_is_to_be_alone_is_dropped_beside_another(store).await;
}

async fn a_dedupe_key_waits_once(store: &dyn Store) {
    let queue = name("dedupe");
    let keyed = |payload| Item {
        dedupe: Some("k".into()),
        ..item(payload)
    };
    let enqueue = async |items| {
        store
            .queue()
            .enqueue(&queue, items)
            .await
            .expect("a working store takes items")
    };

    let first = enqueue(vec![keyed("a"), keyed("b"), item("c")]).await;
    let second = enqueue(vec![keyed("d")]).await;
    let claimed = take(store, &queue, 10).await;
    let third = enqueue(vec![keyed("e")]).await;

    use Enqueued::{Duplicate, New};
    same(first, vec![New, Duplicate, New], "a dedupe key counts within one batch");
    same(second, vec![Duplicate], "a dedupe key that waits is not stored again");
    same(
        payloads(&claimed),
        vec!["a".to_owned(), "c".to_owned()],
        "a duplicate is not stored",
    );
    same(third, vec![New], "a dedupe key is free again once its item is leased");
    let other = name("dedupe-other");
    let elsewhere = store
        .queue()
        .enqueue(&other, vec![keyed("f")])
        .await
        .expect("a working store takes items");
    same(elsewhere, vec![New], "a dedupe key counts within its queue alone");
}

async fn a_returning_item_survives_its_dedupe_key(store: &dyn Store) {
    let queue = name("dedupe-return");
    let keyed = |payload| Item {
        dedupe: Some("k".into()),
        ..item(payload)
    };
    put(store, &queue, vec![keyed("a")]).await;
    let claimed = take(store, &queue, 10).await;
    put(store, &queue, vec![keyed("b")]).await;

    let released = settle(store, &queue, claimed[0].lease, Outcome::Release).await;
    let mut back = payloads(&take(store, &queue, 10).await);
    back.sort();

    same(
        released,
        Ok(()),
        "an item can come back although its dedupe key was taken meanwhile",
    );
    same(
        back,
        vec!["a".to_owned(), "b".to_owned()],
        "an item that comes back to a taken dedupe key is not lost",
    );
}

async fn an_item_that_is_to_be_alone_is_dropped_beside_another(store: &dyn Store) {
    use Enqueued::{Duplicate, New};
    let queue = name("alone");
    let keyed = |payload, key: &'static str| Item {
        key: Some(key.into()),
        ..item(payload)
    };
    let alone = |payload, key| Item {
        alone: true,
        ..keyed(payload, key)
    };
    let enqueue = async |items| {
        let answers = store.queue().enqueue(&queue, items).await;
        answers.expect("a working store takes items")
    };
    let keyless = Item {
        alone: true,
        ..item("keyless")
    };
    let twice = Item {
        dedupe: Some("k".into()),
        ..keyed("dedupe", "d")
    };
    same(
        enqueue(vec![
            alone("a1", "a"),
            alone("a2", "a"),
            keyed("b1", "b"),
            alone("b2", "b"),
            keyed("a3", "a"),
            keyless.clone(),
            keyless,
            twice.clone(),
            twice,
        ])
        .await,
        vec![New, Duplicate, New, Duplicate, New, New, New, New, Duplicate],
        "an item that is to be alone is dropped beside one of its key that came before it in a batch",
    );
    same(
        enqueue(vec![alone("a4", "a"), alone("c1", "c")]).await,
        vec![Duplicate, New],
        "an item that is to be alone is dropped beside one of its key that waits",
    );
    let dropped = Item {
        dedupe: Some("k".into()),
        ..keyed("dropped", "e")
    };
    same(
        enqueue(vec![dropped, alone("e1", "e")]).await,
        vec![Duplicate, New],
        "what a dedupe key has dropped is no company",
    );

    let claimed = take(store, &queue, 10).await;
    same(claimed.len(), 8, "what was dropped is not there");
    same(
        claimed.iter().all(|claimed| !claimed.item.alone),
        true,
        "it is asked on the way in alone",
    );
    same(
        enqueue(vec![alone("c2", "c")]).await,
        vec![Duplicate],
        "an item that is to be alone is dropped beside one of its key that is leased",
    );
    for claimed in claimed {
        let done = settle(store, &queue, claimed.lease, Outcome::Done).await;
        same(done, Ok(()), "a lease holds");
    }
    same(
        enqueue(vec![alone("c3", "c")]).await,
        vec![New],
        "an item that is to be alone is stored once its like is done",
    );
}
