use std::time::{Duration, SystemTime};

use super::*;
use crate::store::Reservation;

pub(super) async fn battery(store: &dyn Store) {
    a_key_has_one_owner_at_a_time(store).await;
    a_committed_key_is_done_until_it_expires(store).await;
    a_cancelled_key_is_free(store).await;
    an_owner_that_died_locks_nobody_out(store).await;
    a_slot_fires_once(store).await;
    pruned_slots_leave_the_latest(store).await;
    a_position_is_kept_until_it_is_forgotten(store).await;
}

async fn reserve(store: &dyn Store, key: &str, owner: &str, lease: Duration) -> Reservation {
    store
        .reservations()
        .reserve(key, owner, lease)
        .await
        .expect("a working store reserves")
}

async fn commit(store: &dyn Store, key: &str, owner: &str, keep: Duration) -> bool {
    store
        .reservations()
        .commit(key, owner, keep)
        .await
        .expect("a working store commits")
}

async fn a_key_has_one_owner_at_a_time(store: &dyn Store) {
    let key = name("key");
    let owners: Vec<String> = (0..8).map(|number| format!("owner {number}")).collect();

    let found = futures::future::join_all(owners.iter().map(|owner| reserve(store, &key, owner, LONG))).await;

    let ours = found.iter().filter(|found| **found == Reservation::Reserved).count();
    same(ours, 1, "of many who reserve a key at the same time, one gets it");
    let winner = found
        .iter()
        .position(|found| *found == Reservation::Reserved)
        .unwrap_or_default();
    let loser = &owners[(winner + 1) % owners.len()];
    let others = found
        .iter()
        .filter(|found| matches!(found, Reservation::InProgress(until) if *until > SystemTime::now()));
    same(others.count(), 7, "everybody else is told until when it is held");
    same(
        commit(store, &key, loser, LONG).await,
        false,
        "only the owner can commit",
    );
    store
        .reservations()
        .cancel(&key, loser)
        .await
        .expect("a working store cancels");
    same(
        commit(store, &key, &owners[winner], LONG).await,
        true,
        "a stranger's cancel changes nothing",
    );
}

async fn a_committed_key_is_done_until_it_expires(store: &dyn Store) {
    let key = name("done");
    reserve(store, &key, "me", LONG).await;

    same(commit(store, &key, "me", SHORT).await, true, "the owner can commit");
    let found = reserve(store, &key, "me", LONG).await;
    assert!(
        matches!(found, Reservation::Done(_)),
        "a committed key is done, for its owner too, not {found:?}"
    );
    store
        .reservations()
        .cancel(&key, "me")
        .await
        .expect("a working store cancels");
    let found = reserve(store, &key, "you", LONG).await;
    assert!(
        matches!(found, Reservation::Done(_)),
        "what is done cannot be cancelled, yet it was: {found:?}"
    );
    let end = Instant::now() + PATIENCE;
    while reserve(store, &key, "you", LONG).await != Reservation::Reserved {
        assert!(Instant::now() < end, "a done key is free again once it expires");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn a_cancelled_key_is_free(store: &dyn Store) {
    let key = name("cancel");
    reserve(store, &key, "me", LONG).await;

    store
        .reservations()
        .cancel(&key, "me")
        .await
        .expect("a working store cancels");

    same(
        reserve(store, &key, "you", LONG).await,
        Reservation::Reserved,
        "a cancelled key is free",
    );
}

async fn an_owner_that_died_locks_nobody_out(store: &dyn Store) {
    let (key, forgotten) = (name("dead-owner"), name("forgotten"));
    reserve(store, &key, "dead", SHORT).await;
    reserve(store, &forgotten, "dead", SHORT).await;

    let end = Instant::now() + PATIENCE;
    while reserve(store, &key, "next", LONG).await != Reservation::Reserved {
        assert!(
            Instant::now() < end,
            "a key whose owner died is free once its lease runs out"
        );
        sleep(Duration::from_millis(5)).await;
    }

    same(
        commit(store, &key, "dead", LONG).await,
        false,
        "an owner that lost its key cannot commit",
    );
    // The one was reserved before the other, but not much: give that its time, too.
    sleep(SHORT).await;
    store.reservations().expire().await.expect("a working store expires");
    same(
        commit(store, &forgotten, "dead", LONG).await,
        false,
        "expire forgets what nobody holds any more",
    );
    same(
        commit(store, &key, "next", LONG).await,
        true,
        "expire spares what is held",
    );
}

async fn a_slot_fires_once(store: &dyn Store) {
    let schedule = name("slot");
    let slot = whole_micros(SystemTime::now());
    let take = async |at| {
        store
            .slots()
            .take(&schedule, at)
            .await
            .expect("a working store takes slots")
    };
    let before = store
        .slots()
        .last(&schedule)
        .await
        .expect("a working store knows its slots");

    let taken = futures::future::join_all((0..16).map(|_| take(slot))).await;

    same(before, None, "a schedule that never fired has no last slot");
    same(
        taken.iter().filter(|taken| **taken).count(),
        1,
        "of many who take a slot at the same time, one gets it",
    );
    same(take(slot).await, false, "a slot that was taken stays taken");
    same(take(slot + SHORT).await, true, "the next slot can be taken");
    let last = store
        .slots()
        .last(&schedule)
        .await
        .expect("a working store knows its slots");
    same(last, Some(slot + SHORT), "the last slot is the latest that was taken");
}

async fn pruned_slots_leave_the_latest(store: &dyn Store) {
    let schedule = name("prune");
    let epoch = SystemTime::UNIX_EPOCH;
    for seconds in 1..=3 {
        let taken = store
            .slots()
            .take(&schedule, epoch + Duration::from_secs(seconds))
            .await;
        assert!(taken.expect("a working store takes slots"), "a new slot can be taken");
    }

    let pruned = store.slots().prune(epoch + LONG).await.expect("a working store prunes");
    let last = store
        .slots()
        .last(&schedule)
        .await
        .expect("a working store knows its slots");

    assert!(pruned >= 2, "prune forgets old slots, yet it forgot {pruned}");
    same(
        last,
        Some(epoch + Duration::from_secs(3)),
        "prune leaves the latest slot of each schedule",
    );
    let again = store.slots().take(&schedule, epoch + Duration::from_secs(3)).await;
    same(
        again.expect("a working store takes slots"),
        false,
        "the slot that is left stays taken",
    );
}

async fn a_position_is_kept_until_it_is_forgotten(store: &dyn Store) {
    let input = name("position");
    let positions = store.positions();
    let load = async || positions.load(&input).await.expect("a working store loads positions");
    let save = async |position| {
        positions
            .save(&input, position)
            .await
            .expect("a working store saves positions")
    };

    same(load().await, None, "an unknown position is none");
    save(Some(7)).await;
    save(Some(u64::try_from(i64::MAX).unwrap_or_default())).await;
    same(load().await, Some(i64::MAX as u64), "the last position is kept");
    save(None).await;
    same(load().await, None, "a forgotten position is none");
}
